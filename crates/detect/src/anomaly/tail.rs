//! How rare a value of one feature is, by what the feature has done before.
//!
//! Features are logarithms, so the exponential tail that is assumed beyond the largest values is a Pareto tail of what is
//! behind them, and heavy-tailed series get few surprises. Values come in blocks of which only the largest is learnt
//! (declustering, as extreme-value statistics does it): neighbours are no independent witnesses, and a spike of three
//! values is one event. How many blocks are remembered is an argument, since it depends on how often values come.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The share of blocks beyond the quantile.
const SHARE: f32 = 0.05;
/// How fast the quantile follows, at least.
const QUANTILE_RATE: f32 = 0.01;
/// Blocks before a value can be rare.
const BLOCKS_MIN: f32 = 16.0;
/// How much of the way the record goes to a value beyond it, and how far at most.
const RECORD_STEP: f32 = 0.35;
const RECORD_STEP_MAX: f32 = 1.25;
/// The record is forgotten over this share of the blocks so far, plus a few.
const RECORD_EARLY: f32 = 0.5;
const RECORD_EARLY_MIN: f32 = 20.0;
/// Records that are supposed to have been broken before anything was seen.
const PRIOR: f32 = 2.0;
/// The excess over the record that is expected before one was seen.
const EXCESS_FIRST: f32 = 0.08;
const EXCESS_RATE: f32 = 0.1;
/// The smallest excess that means something, alone and as a share of the way from quantile to record.
const EXCESS_MIN: f32 = 0.03;
const EXCESS_SHARE: f32 = 0.07;
/// How far above the middle one the largest of the first three blocks may be.
const ALONE: f32 = 1.0;
/// No feature is as small as this.
const NOTHING: f32 = -30.0;

/// The upper tail of one feature in three numbers: a quantile, a record that is slowly forgotten, and by how much records
/// are broken.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tail {
    quantile: f32,
    record: f32,
    excess: f32,
    /// How often the record was broken within the memory.
    broken: f32,
    /// The largest value of the present block.
    block_max: f32,
    /// Blocks learnt; as a float it stops at 2^24 by itself.
    blocks: f32,
}

impl Tail {
    pub(super) const EMPTY: Self = Self {
        quantile: 0.0,
        record: 0.0,
        excess: EXCESS_FIRST,
        broken: 0.0,
        block_max: NOTHING,
        blocks: 0.0,
    };

    /// Decades by which a value is rarer than the quantile: 0 up to it.
    pub(super) fn decades(&self, value: f32, memory: f32) -> f32 {
        if self.blocks < BLOCKS_MIN || value <= self.quantile {
            return 0.0;
        }
        // As often as the record was broken, so probable is it to be broken again.
        let at_record = (SHARE * (self.blocks + 2.0).min(memory) / (self.broken + PRIOR))
            .max(1.2)
            .log10();
        let way = self.record - self.quantile;
        if value <= self.record {
            return at_record * (value - self.quantile) / way;
        }
        let scale = self.excess + EXCESS_MIN + EXCESS_SHARE * way;
        at_record + (value - self.record) / scale * std::f32::consts::LOG10_E
    }

    /// −log10 of the probability that a block reaches such a value.
    pub(super) fn surprise(&self, value: f32, memory: f32) -> f32 {
        if self.blocks >= BLOCKS_MIN && value > self.quantile {
            self.decades(value, memory) - SHARE.log10()
        } else {
            0.0
        }
    }

    /// The value that one block in twenty goes beyond.
    pub(super) fn quantile(&self) -> f32 {
        self.quantile
    }

    /// Takes a value into the present block.
    pub(super) fn note(&mut self, value: f32) {
        self.block_max = self.block_max.max(value);
    }

    /// Learns the present block, if there was something in it, and begins the next.
    pub(super) fn close(&mut self, memory: f32) {
        if self.block_max > NOTHING {
            self.learn(self.block_max, memory);
            self.block_max = NOTHING;
        }
    }

    /// Learns a value as a block of its own.
    pub(super) fn learn(&mut self, value: f32, memory: f32) {
        let blocks = self.blocks;
        self.blocks += 1.0;
        if blocks < 3.0 {
            self.begin(blocks, value);
            return;
        }
        self.broken -= self.broken / memory;
        let way = self.record - self.quantile;
        let step = QUANTILE_RATE.max(0.5 / blocks) * (0.3 * way + 0.1 * self.quantile.abs() + 0.01);
        self.quantile += step
            * if value > self.quantile {
                1.0 - SHARE
            } else {
                -SHARE
            };
        if value > self.record {
            let excess = value - self.record;
            self.broken += 1.0;
            self.excess += EXCESS_RATE * (excess.min(self.excess + 0.05) - self.excess);
            self.record += (RECORD_STEP * excess).min(RECORD_STEP_MAX);
        } else {
            let forgotten = memory.min(RECORD_EARLY * blocks + RECORD_EARLY_MIN);
            self.record -= (self.record - self.quantile).max(0.0) / forgotten;
        }
        self.record = self.record.max(self.quantile + 0.01);
    }

    /// Learns one of the first three blocks. The quantile begins at their largest, which is the record until then, unless it
    /// stands alone: an outlier there would leave nothing rare for thousands of blocks.
    fn begin(&mut self, blocks: f32, value: f32) {
        if blocks < 1.0 {
            (self.quantile, self.record) = (value, value);
            return;
        }
        let middle = value.clamp(self.quantile, self.record);
        (self.quantile, self.record) = (self.quantile.min(value), self.record.max(value));
        if blocks >= 2.0 {
            self.quantile = self.record.min(middle + ALONE);
            self.record = self.quantile + 0.05;
        }
    }

    /// Whether every number can come from observations: a snapshot is bytes from outside.
    pub(super) fn is_sound(&self) -> bool {
        let all = [
            self.quantile,
            self.record,
            self.excess,
            self.broken,
            self.block_max,
            self.blocks,
        ];
        all.iter().all(|number| number.is_finite() && number.abs() < 2e7)
            && self.record > self.quantile - 1e-3
            && self.excess >= 0.0
            && self.broken >= 0.0
            && self.blocks >= 0.0
    }
}

//! The rarity of a value of one feature, given the feature's history.
//!
//! Features are logarithms, so the exponential tail that is assumed beyond the largest values is a Pareto tail of the
//! values behind them, and heavy-tailed series get few surprises. Values are learnt in blocks of which only the largest
//! counts (declustering, as in extreme-value statistics): neighbouring values are not independent, and a spike of three
//! values is one event. The number of blocks remembered is an argument, because it depends on the rate of values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The fraction of blocks beyond the quantile.
const SHARE: f32 = 0.05;
/// Minimum rate at which the quantile adapts.
const QUANTILE_RATE: f32 = 0.01;
/// Number of blocks before a value can be rare.
const BLOCKS_MIN: f32 = 16.0;
/// Fraction of the way by which the record moves to a value beyond it, and the largest such move.
const RECORD_STEP: f32 = 0.35;
const RECORD_STEP_MAX: f32 = 1.25;
/// The record is forgotten over this fraction of the blocks so far, plus a few.
const RECORD_EARLY: f32 = 0.5;
const RECORD_EARLY_MIN: f32 = 20.0;
/// Number of broken records assumed before any observation.
const PRIOR: f32 = 2.0;
/// The excess over the record expected before the first one was seen, and the rate at which it adapts.
const EXCESS_FIRST: f32 = 0.08;
const EXCESS_RATE: f32 = 0.1;
/// Additions to the expected excess: a constant, and a fraction of the distance from quantile to record.
const EXCESS_MIN: f32 = 0.03;
const EXCESS_SHARE: f32 = 0.07;
/// How far the largest of the first three blocks may lie above the middle one without counting as an outlier.
const ALONE: f32 = 1.0;
/// Smaller than any feature: marks an empty block.
const NOTHING: f32 = -30.0;

/// The upper tail of one feature in three numbers: a quantile, a record that is slowly forgotten, and the mean excess
/// of values that break the record.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tail {
    quantile: f32,
    record: f32,
    excess: f32,
    /// Number of times the record was broken within the memory.
    broken: f32,
    /// The largest value of the current block.
    block_max: f32,
    /// Number of blocks learnt; a float, so it saturates at 2^24.
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

    /// Decades by which a value is rarer than the quantile; 0 up to the quantile.
    pub(super) fn decades(&self, value: f32, memory: f32) -> f32 {
        if self.blocks < BLOCKS_MIN || value <= self.quantile {
            return 0.0;
        }
        // The probability that the record is broken again follows from how often it was broken.
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

    /// −log10 of the probability that a block reaches this value.
    pub(super) fn surprise(&self, value: f32, memory: f32) -> f32 {
        if self.blocks >= BLOCKS_MIN && value > self.quantile {
            self.decades(value, memory) - SHARE.log10()
        } else {
            0.0
        }
    }

    /// The value that one block in twenty exceeds.
    pub(super) fn quantile(&self) -> f32 {
        self.quantile
    }

    /// Adds a value to the current block.
    pub(super) fn note(&mut self, value: f32) {
        self.block_max = self.block_max.max(value);
    }

    /// Learns the current block, unless it is empty, and begins the next.
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

    /// Learns one of the first three blocks. The quantile begins at the largest of them, which is the record until
    /// then. An outlier is limited: otherwise no value would be rare for thousands of blocks.
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

    /// Whether observations can lead to these numbers; a snapshot is untrusted input.
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

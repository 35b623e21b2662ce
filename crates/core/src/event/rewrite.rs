//! Rewrites a walked value for the clean topic: copies untouched spans and writes the edits in their place.

use super::arena::{Action, Arena, Edit, Seal, Walk};
use super::config::Format;
use super::plan::Plan;
use super::sealed::Untranscodable;
use super::wire::{write_avro_bytes, write_json_ascii, write_json_base64};

/// Writes clean values. It owns two buffers, so that it does not allocate per record.
#[derive(Default)]
pub struct Rewriter {
    replacement: Vec<u8>,
    transcoded: Vec<u8>,
}

impl Rewriter {
    /// Appends the clean value to `out`, framing included.
    ///
    /// `replace` appends the raw replacement of one edit to its vector argument: ciphertext bytes for [`Seal::Encrypt`]
    /// (this function writes them as base64 in JSON, as `bytes` in Avro), the token's text for the others. It receives
    /// the kind of replacement, the plaintext and the path, in the order of the value.
    ///
    /// # Errors
    /// If the clean topic has another format than the value and the rewritten value cannot be encoded in it: a defect
    /// of the gate, since the walk was strict.
    pub fn rewrite(
        &mut self,
        plan: &Plan,
        value: &[u8],
        walk: &Walk,
        arena: &Arena,
        out: &mut Vec<u8>,
        mut replace: impl FnMut(Seal, &[u8], &str, &mut Vec<u8>),
    ) -> Result<(), Untranscodable> {
        out.extend_from_slice(plan.clean.prefix());
        if walk.format == plan.clean.format {
            self.edit(value, walk, arena, out, &mut replace);
            return Ok(());
        }
        let mut transcoded = std::mem::take(&mut self.transcoded);
        transcoded.clear();
        self.edit(value, walk, arena, &mut transcoded, &mut replace);
        let result = plan.transcode(walk.format, &transcoded, out);
        self.transcoded = transcoded;
        result
    }

    /// Appends the datum with its edits, in its own format.
    fn edit(
        &mut self,
        value: &[u8],
        walk: &Walk,
        arena: &Arena,
        out: &mut Vec<u8>,
        replace: &mut impl FnMut(Seal, &[u8], &str, &mut Vec<u8>),
    ) {
        let mut copied = walk.datum_start as usize;
        for edit in arena.edits(walk) {
            out.extend_from_slice(value.get(copied..edit.start as usize).unwrap_or_default());
            copied = edit.end as usize;
            self.write(edit, value, walk.format, arena, out, replace);
        }
        out.extend_from_slice(value.get(copied..).unwrap_or_default());
    }

    fn write(
        &mut self,
        edit: &Edit,
        value: &[u8],
        format: Format,
        arena: &Arena,
        out: &mut Vec<u8>,
        replace: &mut impl FnMut(Seal, &[u8], &str, &mut Vec<u8>),
    ) {
        let plain = edit.plain().of(value, arena);
        let text = match edit.action {
            Action::Drop => return,
            Action::Literal => return out.extend_from_slice(plain),
            Action::Year => plain.get(..4).unwrap_or_default(),
            Action::Seal(seal) => {
                self.replacement.clear();
                replace(seal, plain, arena.path(edit), &mut self.replacement);
                &self.replacement
            }
        };
        match format {
            Format::Json if edit.action == Action::Seal(Seal::Encrypt) => write_json_base64(text, out),
            Format::Json => write_json_ascii(text, out),
            Format::Avro => write_avro_bytes(text, out),
        }
    }
}

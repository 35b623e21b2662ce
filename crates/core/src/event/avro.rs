//! The walk over an Avro datum: one pass of a cursor, driven by the plan.
//!
//! The binary encoding is specified in "Data Serialization and Deserialization" of Avro 1.12.

use super::arena::{Action, Arena, Step, Text, Walk};
use super::config::Format;
use super::plan::{Field, Kind as Type, Node, Plan};
use super::scalar::Scalar;
use super::stop::Stop;
use super::tags::Protect;
use super::violation::{Kind, Violation};
use super::walk::Walker;
use super::wire::Cursor;

/// Walks the datum that begins at `datum_start` and ends with the value.
pub(super) fn walk(
    plan: &Plan,
    value: &[u8],
    datum_start: usize,
    arena: &mut Arena,
) -> Result<Walk, Violation> {
    let mut avro = Avro {
        cursor: Cursor {
            bytes: value,
            at: datum_start,
        },
        walker: Walker::new(value, plan, arena),
    };
    let result = avro.event(&plan.root);
    avro.walker.finish(result, Format::Avro, datum_start)
}

struct Avro<'v, 'a> {
    cursor: Cursor<'v>,
    walker: Walker<'v, 'a>,
}

impl Avro<'_, '_> {
    fn event<'p>(&mut self, root: &'p Node) -> Result<(), Stop<'p>> {
        self.node(root)?;
        if self.cursor.at == self.cursor.bytes.len() {
            Ok(())
        } else {
            Err(Stop::Undecodable)
        }
    }

    fn node<'p>(&mut self, node: &'p Node) -> Result<(), Stop<'p>> {
        if !self.cursor.present(node.null_branch).ok_or(Stop::Undecodable)? {
            return Ok(());
        }
        let start = self.cursor.at;
        match &node.kind {
            Type::Record(fields) => self.record(fields),
            Type::Array(item) => self.blocks(node, |avro, index| avro.item(item, index)),
            Type::Map(entry) => {
                let first = self.walker.arena.keys.len();
                self.blocks(node, |avro, _| avro.entry(node, entry, first))?;
                self.walker.arena.keys.truncate(first);
                Ok(())
            }
            Type::String | Type::Uuid | Type::Enum(_) => self.text(node, start),
            _ => self.scalar(node, start),
        }
    }

    fn record<'p>(&mut self, fields: &'p [Field]) -> Result<(), Stop<'p>> {
        for field in fields {
            let start = self.cursor.at;
            let mark = self.walker.arena.edits.len();
            self.node(&field.node)?;
            if field.node.protect == Some(Protect::Drop) {
                self.walker.drop(&field.node, mark, start..self.cursor.at)?;
            }
        }
        Ok(())
    }

    /// Walks the blocks of an array or a map. Edits would invalidate the size in bytes that a block may state, so its
    /// head is replaced by the equivalent plain count.
    fn blocks<'p>(
        &mut self,
        node: &'p Node,
        mut each: impl FnMut(&mut Self, u32) -> Result<(), Stop<'p>>,
    ) -> Result<(), Stop<'p>> {
        let mut index = 0_u32;
        loop {
            let head = self.cursor.at;
            let count = self.cursor.long().ok_or(Stop::Undecodable)?;
            if count == 0 {
                return Ok(());
            }
            let sized = if count < 0 {
                let size = self
                    .cursor
                    .long()
                    .and_then(|size| usize::try_from(size).ok())
                    .ok_or(Stop::Undecodable)?;
                let plain = self
                    .walker
                    .arena
                    .keep_long(count.checked_neg().ok_or(Stop::Undecodable)?);
                self.walker
                    .edit(node, head..self.cursor.at, plain, Action::Literal)?;
                Some(self.cursor.at.checked_add(size).ok_or(Stop::Undecodable)?)
            } else {
                None
            };
            for _ in 0..count.unsigned_abs() {
                if index as usize >= self.walker.limits.items {
                    return Err(Stop::Schema(node, Kind::TooMany));
                }
                each(self, index)?;
                index += 1;
            }
            if sized.is_some_and(|end| end != self.cursor.at) {
                return Err(Stop::Undecodable);
            }
        }
    }

    fn item<'p>(&mut self, item: &'p Node, index: u32) -> Result<(), Stop<'p>> {
        self.walker.arena.steps.push(Step::Index(index));
        self.node(item)?;
        self.walker.arena.steps.pop();
        Ok(())
    }

    fn entry<'p>(&mut self, node: &'p Node, entry: &'p Node, first: usize) -> Result<(), Stop<'p>> {
        let key = self.cursor.string().ok_or(Stop::Undecodable)?;
        let end = self.cursor.at;
        self.walker
            .enter_entry(node, Text::in_value(end - key.len(), end), first)?;
        self.node(entry)?;
        self.walker.arena.steps.pop();
        Ok(())
    }

    fn text<'p>(&mut self, node: &'p Node, start: usize) -> Result<(), Stop<'p>> {
        if let Type::Enum(symbols) = &node.kind {
            let index = self.cursor.int().and_then(|index| usize::try_from(index).ok());
            let symbol = index
                .and_then(|index| symbols.get(index))
                .ok_or(Stop::Undecodable)?;
            let span = start..self.cursor.at;
            return self.made(node, span, |scratch| scratch.extend_from_slice(symbol.as_bytes()));
        }
        let text = self.cursor.string().ok_or(Stop::Undecodable)?;
        self.walker.check(node, text.as_bytes())?;
        let end = self.cursor.at;
        self.walker
            .leaf(node, start..end, Text::in_value(end - text.len(), end))
    }

    /// Walks a leaf whose plaintext is its JSON form.
    fn scalar<'p>(&mut self, node: &'p Node, start: usize) -> Result<(), Stop<'p>> {
        let scalar = Scalar::read(&node.kind, &mut self.cursor).ok_or(Stop::Undecodable)?;
        if let Some(kind) = scalar.problem() {
            return Err(Stop::Schema(node, kind));
        }
        self.made(node, start..self.cursor.at, |scratch| scalar.write(scratch))
    }

    /// Notes a leaf whose text is not in the datum; the text is made only if it is needed.
    fn made<'p>(
        &mut self,
        node: &'p Node,
        span: std::ops::Range<usize>,
        make: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Stop<'p>> {
        if node.protect.is_none_or(|protect| protect == Protect::Drop) {
            return Ok(());
        }
        let start = self.walker.arena.scratch.len();
        make(&mut self.walker.arena.scratch);
        let plain = self.walker.arena.kept_since(start);
        self.walker.leaf(node, span, plain)
    }
}

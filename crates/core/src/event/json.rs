//! The walk over a JSON event: one pass of a pull tokenizer, driven by the plan.
//!
//! The tokenizer is jiter, which exposes its position at every token, so spans come for free.

use jiter::{Jiter, JiterError, Peek};

use super::arena::{Arena, Step, Text, Walk};
use super::config::Format;
use super::plan::{Field, Kind as Type, Node, Plan};
use super::stop::Stop;
use super::tags::Protect;
use super::violation::{Kind, Violation};
use super::walk::Walker;

/// Walks a JSON event. A value that is not well-formed JSON is undecodable, whichever problem the walk met first.
pub(super) fn walk(plan: &Plan, value: &[u8], arena: &mut Arena) -> Result<Walk, Violation> {
    let tape = std::mem::take(&mut arena.tape);
    let mut json = Json {
        jiter: Jiter::with_tape(value, tape),
        walker: Walker::new(value, plan, arena),
    };
    let result = json.event(&plan.root);
    let Json { jiter, walker } = json;
    walker.arena.tape = jiter.into_tape();
    walker.finish(result, Format::Json, 0).map_err(|violation| {
        if is_json(value) {
            violation
        } else {
            Violation::Undecodable
        }
    })
}

/// Whether the bytes are JSON text in UTF-8 (RFC 8259). Called only after a walk has failed.
fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

struct Json<'v, 'a> {
    jiter: Jiter<'v>,
    walker: Walker<'v, 'a>,
}

/// Maps any error of the tokenizer: the bytes are not JSON, or JSON text that represents no value.
fn refused<'p>(at: &'p Node) -> impl Fn(JiterError) -> Stop<'p> {
    move |_| Stop::Schema(at, Kind::Unrepresentable)
}

impl<'v> Json<'v, '_> {
    fn event<'p>(&mut self, root: &'p Node) -> Result<(), Stop<'p>> {
        let peek = self.jiter.peek().map_err(refused(root))?;
        self.node(root, peek)?;
        self.jiter.finish().map_err(refused(root))
    }

    fn node<'p>(&mut self, node: &'p Node, peek: Peek) -> Result<(), Stop<'p>> {
        let wrong = || Stop::Schema(node, Kind::WrongType);
        if peek == Peek::Null {
            self.jiter.known_null().map_err(refused(node))?;
            return if node.null_branch.is_some() {
                Ok(())
            } else {
                Err(wrong())
            };
        }
        match &node.kind {
            Type::Record(fields) if peek == Peek::Object => self.record(node, fields),
            Type::Array(item) if peek == Peek::Array => self.array(node, item),
            Type::Map(entry) if peek == Peek::Object => self.map(node, entry),
            Type::Boolean if matches!(peek, Peek::True | Peek::False) => {
                let start = self.jiter.current_index();
                self.jiter.known_bool(peek).map_err(refused(node))?;
                self.scalar(node, start)
            }
            Type::Int | Type::Long if peek.is_num() => self.integer(node, peek),
            Type::Float | Type::Double if peek.is_num() => self.number(node, peek),
            Type::String | Type::Uuid | Type::Date | Type::Timestamp(_) | Type::Enum(_)
                if peek == Peek::String =>
            {
                self.string(node)
            }
            _ => Err(wrong()),
        }
    }

    fn record<'p>(&mut self, node: &'p Node, fields: &'p [Field]) -> Result<(), Stop<'p>> {
        let mut seen = 0_u64;
        let mut hint = 0;
        let mut kept = false;
        // A dropped member without a kept one before it extends to the start of the next member, including the comma.
        let mut open_drop = None;
        let mut before = self.jiter.current_index();
        let mut key = self.jiter.next_object_bytes().map_err(refused(node))?;
        while let Some(name) = key {
            let key_start = offset(self.walker.value, name) - 1;
            let index = find(fields, hint, name).ok_or(Stop::Schema(node, Kind::Unknown))?;
            let field = &fields[index];
            if seen & (1 << index) != 0 {
                return Err(Stop::Schema(&field.node, Kind::Duplicate));
            }
            seen |= 1 << index;
            hint = index + 1;
            if let Some(edit) = open_drop.take() {
                self.walker.extend(edit, key_start);
            }
            let peek = self.jiter.peek().map_err(refused(&field.node))?;
            let mark = self.walker.arena.edits.len();
            self.node(&field.node, peek)?;
            if field.node.protect == Some(Protect::Drop) {
                let start = if kept { before } else { key_start };
                let edit = self
                    .walker
                    .drop(&field.node, mark, start..self.jiter.current_index())?;
                open_drop = (!kept).then_some(edit);
            } else {
                kept = true;
            }
            before = self.jiter.current_index();
            key = self.jiter.next_key_bytes().map_err(refused(node))?;
        }
        for (index, field) in fields.iter().enumerate() {
            if seen & (1 << index) == 0 && !field.optional {
                return Err(Stop::Schema(&field.node, Kind::Missing));
            }
        }
        Ok(())
    }

    fn array<'p>(&mut self, node: &'p Node, item: &'p Node) -> Result<(), Stop<'p>> {
        let mut index = 0;
        let mut peek = self.jiter.known_array().map_err(refused(node))?;
        while let Some(next) = peek {
            if index as usize >= self.walker.limits.items {
                return Err(Stop::Schema(node, Kind::TooMany));
            }
            self.walker.arena.steps.push(Step::Index(index));
            self.node(item, next)?;
            self.walker.arena.steps.pop();
            index += 1;
            peek = self.jiter.array_step().map_err(refused(node))?;
        }
        Ok(())
    }

    fn map<'p>(&mut self, node: &'p Node, entry: &'p Node) -> Result<(), Stop<'p>> {
        let first = self.walker.arena.keys.len();
        let mut key = self.jiter.next_object_bytes().map_err(refused(node))?;
        while let Some(name) = key {
            let start = offset(self.walker.value, name);
            let text = Text::in_value(start, start + name.len());
            // An escaped key would have two spellings, and the tokenizer does not check UTF-8 in keys.
            if name.contains(&b'\\') || std::str::from_utf8(name).is_err() {
                return Err(Stop::Schema(node, Kind::Unrepresentable));
            }
            self.walker.enter_entry(node, text, first)?;
            let peek = self.jiter.peek().map_err(refused(node))?;
            self.node(entry, peek)?;
            self.walker.arena.steps.pop();
            key = self.jiter.next_key_bytes().map_err(refused(node))?;
        }
        self.walker.arena.keys.truncate(first);
        Ok(())
    }

    fn integer<'p>(&mut self, node: &'p Node, peek: Peek) -> Result<(), Stop<'p>> {
        let start = self.jiter.current_index();
        let digits = self.jiter.known_number_bytes(peek).map_err(refused(node))?;
        // JSON readers such as serde_json treat minus zero as a float.
        if digits == b"-0" || digits.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            return Err(Stop::Schema(node, Kind::WrongType));
        }
        let parsed = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<i64>().ok());
        let fits = match node.kind {
            Type::Int => parsed.is_some_and(|number| i32::try_from(number).is_ok()),
            _ => parsed.is_some(),
        };
        if !fits {
            return Err(Stop::Schema(node, Kind::OutOfRange));
        }
        self.scalar(node, start)
    }

    fn number<'p>(&mut self, node: &'p Node, peek: Peek) -> Result<(), Stop<'p>> {
        let start = self.jiter.current_index();
        let number = self.jiter.known_float(peek).map_err(refused(node))?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "this checks whether it fits a float"
        )]
        let finite = if matches!(node.kind, Type::Float) {
            (number as f32).is_finite()
        } else {
            number.is_finite()
        };
        if !finite {
            return Err(Stop::Schema(node, Kind::OutOfRange));
        }
        self.scalar(node, start)
    }

    /// Notes a number or a boolean, whose plaintext is its JSON text.
    fn scalar<'p>(&mut self, node: &'p Node, start: usize) -> Result<(), Stop<'p>> {
        let span = start..self.jiter.current_index();
        self.walker
            .leaf(node, span.clone(), Text::in_value(span.start, span.end))
    }

    fn string<'p>(&mut self, node: &'p Node) -> Result<(), Stop<'p>> {
        let start = self.jiter.current_index();
        let text = self.jiter.known_str().map_err(refused(node))?;
        self.walker.check(node, text.as_bytes())?;
        if node.protect.is_none() && node.role.is_none() {
            return Ok(());
        }
        // The text of a string with escapes is in the tokenizer's buffer, not in the value.
        let borrowed = offset(self.walker.value, text.as_bytes()) == start + 1;
        let plain = if borrowed {
            Text::in_value(start + 1, start + 1 + text.len())
        } else {
            self.walker.arena.keep(text.as_bytes())
        };
        self.walker.leaf(node, start..self.jiter.current_index(), plain)
    }
}

/// Index of a field. Producers keep the order and omit fields, so the search starts after the last field found.
fn find(fields: &[Field], hint: usize, name: &[u8]) -> Option<usize> {
    let is = |field: &Field| field.name.as_bytes() == name;
    let (before, after) = fields.split_at_checked(hint)?;
    after
        .iter()
        .position(is)
        .map(|index| hint + index)
        .or_else(|| before.iter().position(is))
}

/// Offset of a slice within the value.
fn offset(value: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(value.as_ptr().addr())
}

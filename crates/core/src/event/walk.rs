//! Format-independent part of both walkers: checks a leaf, notes its role, and records the span to be replaced.

use std::ops::Range;

use super::arena::{Action, Arena, Seal, Step, Text, Walk};
use super::config::Format;
use super::plan::{Kind as Type, Limits, Node, Plan};
use super::scalar;
use super::stop::Stop;
use super::tags::{Protect, Role};
use super::violation::{Kind, Violation};

/// State of a walk that does not depend on the format.
pub(super) struct Walker<'v, 'a> {
    pub value: &'v [u8],
    pub limits: Limits,
    pub arena: &'a mut Arena,
    event_id: Text,
    device: Text,
    subject: Text,
    marks: Marks,
}

/// Lengths of the arena's vectors before the walk.
struct Marks {
    edits: usize,
    scratch: usize,
    paths: usize,
}

impl<'v, 'a> Walker<'v, 'a> {
    pub fn new(value: &'v [u8], plan: &Plan, arena: &'a mut Arena) -> Self {
        let marks = Marks {
            edits: arena.edits.len(),
            scratch: arena.scratch.len(),
            paths: arena.paths.len(),
        };
        let (event_id, device, subject) = Default::default();
        Self {
            value,
            limits: plan.limits,
            arena,
            event_id,
            device,
            subject,
            marks,
        }
    }

    /// Turns the end of a walk into its result. After a violation the arena is unchanged.
    pub fn finish(
        self,
        result: Result<(), Stop<'_>>,
        format: Format,
        datum_start: usize,
    ) -> Result<Walk, Violation> {
        let Self {
            arena,
            event_id,
            device,
            subject,
            marks,
            ..
        } = self;
        let result = result.map_err(|stop| stop.violation(arena));
        arena.steps.clear();
        arena.keys.clear();
        if result.is_err() {
            arena.edits.truncate(marks.edits);
            arena.scratch.truncate(marks.scratch);
            arena.paths.truncate(marks.paths);
        }
        result.map(|()| {
            Walk::new(
                event_id,
                device,
                subject,
                format,
                datum_start,
                marks.edits..arena.edits.len(),
            )
        })
    }

    /// Checks the text of a string leaf.
    #[inline]
    pub fn check<'p>(&self, node: &'p Node, text: &[u8]) -> Result<(), Stop<'p>> {
        if text.len() > self.limits.string_bytes {
            return Err(Stop::Schema(node, Kind::TooLong));
        }
        if matches!(node.kind, Type::String) && node.role.is_none() {
            Ok(())
        } else {
            self.check_form(node, text)
        }
    }

    fn check_form<'p>(&self, node: &'p Node, text: &[u8]) -> Result<(), Stop<'p>> {
        let (good, kind) = match &node.kind {
            Type::Uuid => (scalar::is_uuid(text), Kind::BadUuid),
            Type::Date => (scalar::date(text).is_some(), Kind::BadDate),
            Type::Timestamp(unit) => {
                let at = scalar::timestamp(text);
                (
                    at.is_some_and(|at| scalar::units_from_timestamp(at, *unit).is_some()),
                    Kind::BadTimestamp,
                )
            }
            Type::Enum(symbols) => (
                symbols.iter().any(|symbol| symbol.as_bytes() == text),
                Kind::UnknownSymbol,
            ),
            _ if matches!(node.role, Some(Role::Device | Role::Subject)) => (
                scalar::is_identity(text, self.limits.identity_bytes),
                Kind::BadIdentity,
            ),
            _ => (true, Kind::WrongType),
        };
        if good {
            Ok(())
        } else {
            Err(Stop::Schema(node, kind))
        }
    }

    /// Notes the role of a leaf and, if it is protected, the span to be replaced.
    pub fn leaf<'p>(&mut self, node: &'p Node, span: Range<usize>, plain: Text) -> Result<(), Stop<'p>> {
        match node.role {
            Some(Role::EventId) => self.event_id = plain,
            Some(Role::Device) => self.device = plain,
            Some(Role::Subject) => self.subject = plain,
            _ => {}
        }
        let action = match node.protect {
            // The edit of the dropped field covers this leaf.
            None | Some(Protect::Drop) => return Ok(()),
            Some(Protect::Encrypt) => Action::Seal(Seal::Encrypt),
            Some(Protect::Token) if node.role == Some(Role::Device) => Action::Seal(Seal::DeviceToken),
            Some(Protect::Token) if node.role == Some(Role::Subject) => Action::Seal(Seal::SubjectToken),
            Some(Protect::Token) => Action::Seal(Seal::Token),
            Some(Protect::Year) => Action::Year,
        };
        self.edit(node, span, plain, action)
    }

    /// Notes that a field is dropped, replacing the edits below it since `mark`. Returns the index of the edit.
    pub fn drop<'p>(&mut self, node: &'p Node, mark: usize, span: Range<usize>) -> Result<usize, Stop<'p>> {
        self.arena.edits.truncate(mark);
        self.edit(node, span, Text::default(), Action::Drop)?;
        Ok(mark)
    }

    /// Moves the end of an edit.
    pub fn extend(&mut self, edit: usize, end: usize) {
        if let Some(edit) = self.arena.edits.get_mut(edit) {
            edit.extend(end);
        }
    }

    /// Steps into an entry of a map; the map's earlier keys begin at `first` in the arena.
    pub fn enter_entry<'p>(&mut self, node: &'p Node, key: Text, first: usize) -> Result<(), Stop<'p>> {
        let bytes = key.of(self.value, self.arena);
        let earlier = self.arena.keys.get(first..).unwrap_or_default();
        let kind = if earlier.len() >= self.limits.items {
            Kind::TooMany
        } else if bytes.len() > self.limits.identity_bytes {
            Kind::TooLong
        } else if earlier
            .iter()
            .any(|other| other.of(self.value, self.arena) == bytes)
        {
            Kind::Duplicate
        } else {
            self.arena.keys.push(key);
            self.arena.steps.push(Step::Key(key));
            return Ok(());
        };
        Err(Stop::Schema(node, kind))
    }

    /// Notes a span to be replaced.
    pub fn edit<'p>(
        &mut self,
        node: &'p Node,
        span: Range<usize>,
        plain: Text,
        action: Action,
    ) -> Result<(), Stop<'p>> {
        if self.arena.edits.len() - self.marks.edits >= self.limits.protected {
            return Err(Stop::Schema(node, Kind::TooMany));
        }
        self.arena.edit(node, self.value, span, plain, action);
        Ok(())
    }
}

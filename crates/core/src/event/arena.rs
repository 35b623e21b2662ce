//! The results of a batch of walks, in a few vectors that are cleared and reused.

use std::fmt::Write;

use super::config::Format;
use super::plan::Node;
use super::wire::write_avro_long;

/// Edits of a batch and the text that they refer to. Walks and edits point into it, so it is cleared only when the
/// batch is done. It holds plaintext: it is never printed.
#[derive(Default)]
pub struct Arena {
    pub(super) edits: Vec<Edit>,
    /// Text that does not occur literally in the received bytes: unescaped, or made from an Avro number.
    pub(super) scratch: Vec<u8>,
    /// Rendered paths of the edits.
    pub(super) paths: String,
    /// Position of the walker: one step for every array or map that it is in.
    pub(super) steps: Vec<Step>,
    /// Keys of the maps that the walker is in, to detect repeated ones.
    pub(super) keys: Vec<Text>,
    /// Buffer of the JSON tokenizer for strings with escapes.
    pub(super) tape: Vec<u8>,
}

/// A step into an array or a map.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Index(u32),
    Key(Text),
}

/// A piece of text, in the received value or in the arena. Eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text {
    start: u32,
    /// Length in bytes; the highest bit is set if the text is in the arena.
    length: u32,
}

/// Result of one walk.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Event id, a UUID in its hyphenated form.
    pub event_id: Text,
    /// Device id in clear.
    pub device: Text,
    /// Subject id in clear.
    pub subject: Text,
    /// Format of the value.
    pub format: Format,
    /// Offset of the event, after the framing.
    pub(super) datum_start: u32,
    pub(super) edits_start: u32,
    pub(super) edits_end: u32,
}

/// A span of the received value that is replaced in the clean event.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) plain: Text,
    path_start: u32,
    path_length: u32,
    /// What replaces the span.
    pub action: Action,
}

/// Replacement of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A value that the caller of [`super::Rewriter::rewrite`] makes from the plaintext.
    Seal(Seal),
    /// The first four bytes of the plaintext, which is a date.
    Year,
    /// Nothing: the span is removed.
    Drop,
    /// The plaintext itself: framing that the other edits change.
    Literal,
}

/// Value that the caller makes from a plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// A ciphertext under the subject's key: base64 in JSON, `bytes` in Avro.
    Encrypt,
    /// A token under the subject's salt.
    Token,
    /// The token of the subject itself: the same in every event type.
    SubjectToken,
    /// The token of the device.
    DeviceToken,
}

const IN_ARENA: u32 = 1 << 31;

/// Maximum length of a value, and of each vector of an arena before a walk.
pub(super) const POSITIONS: usize = 1 << 30;

impl Arena {
    /// Removes the edits of a batch and keeps the memory.
    pub fn clear(&mut self) {
        self.edits.clear();
        self.scratch.clear();
        self.paths.clear();
    }

    /// Whether every position of one more walk fits into 31 bits. A batch is bounded far below it; the growth of one
    /// walk is bounded by `event::Config::protected_max`.
    pub(super) fn has_room(&self) -> bool {
        self.scratch.len() < POSITIONS && self.paths.len() < POSITIONS && self.edits.len() < POSITIONS
    }

    /// The edits of a walk, ascending and without overlap.
    #[must_use]
    pub fn edits(&self, walk: &Walk) -> &[Edit] {
        self.edits
            .get(walk.edits_start as usize..walk.edits_end as usize)
            .unwrap_or_default()
    }

    /// Path of an edit in the event, such as `subject.name` or `readings[0].value`.
    #[must_use]
    pub fn path(&self, edit: &Edit) -> &str {
        let start = edit.path_start as usize;
        self.paths
            .get(start..start + edit.path_length as usize)
            .unwrap_or_default()
    }

    /// Notes a span to be replaced.
    pub(super) fn edit(
        &mut self,
        node: &Node,
        value: &[u8],
        span: std::ops::Range<usize>,
        plain: Text,
        action: Action,
    ) {
        let path_start = self.paths.len();
        if self.steps.is_empty() {
            self.paths.push_str(&node.path);
        } else {
            let mut paths = std::mem::take(&mut self.paths);
            self.render(node, Some(value), &mut paths);
            self.paths = paths;
        }
        self.edits.push(Edit {
            start: narrow(span.start),
            end: narrow(span.end),
            plain,
            path_start: narrow(path_start),
            path_length: narrow(self.paths.len() - path_start),
            action,
        });
    }

    /// Writes the path of a node. With `value`, the keys of maps are included, quoted as in JSON so that no two paths
    /// are equal. Without it they are left out, since the sender chose them.
    pub(super) fn render(&self, node: &Node, value: Option<&[u8]>, out: &mut String) {
        let mut steps = self.steps.iter();
        let mut pieces = node.path.split("[]");
        out.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            match (steps.next(), value) {
                (Some(Step::Index(index)), _) => {
                    let _ = write!(out, "[{index}]");
                }
                (Some(Step::Key(key)), Some(value)) => {
                    let key = String::from_utf8_lossy(key.of(value, self));
                    let _ = write!(out, "[{}]", serde_json::Value::from(key.as_ref()));
                }
                _ => out.push_str("[]"),
            }
            out.push_str(piece);
        }
    }

    /// Copies text into the arena.
    pub(super) fn keep(&mut self, text: &[u8]) -> Text {
        let start = self.scratch.len();
        self.scratch.extend_from_slice(text);
        self.kept_since(start)
    }

    /// Encodes an Avro long into the arena.
    pub(super) fn keep_long(&mut self, number: i64) -> Text {
        let start = self.scratch.len();
        write_avro_long(number, &mut self.scratch);
        self.kept_since(start)
    }

    /// The text that was appended to the arena since `scratch` had this length.
    pub(super) fn kept_since(&self, start: usize) -> Text {
        Text {
            start: narrow(start),
            length: narrow(self.scratch.len() - start) | IN_ARENA,
        }
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena([redacted], {} edits)", self.edits.len())
    }
}

impl Text {
    pub(super) fn in_value(start: usize, end: usize) -> Self {
        Self {
            start: narrow(start),
            length: narrow(end - start),
        }
    }

    /// The bytes of the text, from the walked value or from the arena of the walk.
    #[must_use]
    pub fn of<'a>(self, value: &'a [u8], arena: &'a Arena) -> &'a [u8] {
        let start = self.start as usize;
        let end = start + (self.length & !IN_ARENA) as usize;
        let bytes = if self.length & IN_ARENA == 0 {
            value
        } else {
            &arena.scratch
        };
        bytes.get(start..end).unwrap_or_default()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        (self.length & !IN_ARENA) as usize
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl Walk {
    pub(super) fn new(
        event_id: Text,
        device: Text,
        subject: Text,
        format: Format,
        datum_start: usize,
        edits: std::ops::Range<usize>,
    ) -> Self {
        Self {
            event_id,
            device,
            subject,
            format,
            datum_start: narrow(datum_start),
            edits_start: narrow(edits.start),
            edits_end: narrow(edits.end),
        }
    }
}

impl Edit {
    pub(super) fn extend(&mut self, end: usize) {
        self.end = narrow(end);
    }

    /// The plaintext: a string's UTF-8 bytes, or the JSON text of any other leaf.
    #[must_use]
    pub fn plain(&self) -> Text {
        self.plain
    }
}

/// Positions are 31 bits wide; [`Arena::has_room`] is checked before a walk.
#[expect(
    clippy::cast_possible_truncation,
    reason = "`Arena::has_room` bounds every position before a walk"
)]
fn narrow(position: usize) -> u32 {
    debug_assert!(position < IN_ARENA as usize);
    position as u32
}

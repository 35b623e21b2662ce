//! Append-only storage in chunks that snapshots share. A chunk is copied when one of its elements changes while another
//! snapshot still holds it; otherwise nothing is moved.

use std::mem::size_of;
use std::sync::Arc;

use zeroize::Zeroize;

const ROWS: usize = 1024;
const BYTES: usize = 64 * 1024;

/// Append-only list of rows.
#[derive(Clone)]
pub(super) struct List<T> {
    chunks: Vec<Arc<[T]>>,
    len: u32,
}

impl<T: Copy + Default> List<T> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn get(&self, index: u32) -> &T {
        &self.chunks[index as usize / ROWS][index as usize % ROWS]
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        &mut Arc::make_mut(&mut self.chunks[index as usize / ROWS])[index as usize % ROWS]
    }

    pub(super) fn push(&mut self, row: T) -> u32 {
        let index = self.len;
        if (index as usize).is_multiple_of(ROWS) {
            self.chunks
                .push(std::iter::repeat_n(T::default(), ROWS).collect());
        }
        self.len += 1;
        *self.get_mut(index) = row;
        index
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.chunks.len() * (ROWS * size_of::<T>() + 16) + self.chunks.capacity() * size_of::<Arc<[T]>>()
    }
}

/// The next free place for `len` bytes that may not straddle two chunks.
fn place(next: usize, len: usize) -> usize {
    if next % BYTES + len > BYTES {
        next.next_multiple_of(BYTES)
    } else {
        next
    }
}

/// Names, stored back to back.
#[derive(Clone)]
pub(super) struct Texts {
    chunks: Vec<Arc<[u8]>>,
    next: usize,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn bytes(&self, at: u32, len: u8) -> &[u8] {
        let start = at as usize % BYTES;
        &self.chunks[at as usize / BYTES][start..start + usize::from(len)]
    }

    /// The name at this place. Only whole names are stored, so the empty default is never returned.
    pub(super) fn get(&self, at: u32, len: u8) -> &str {
        std::str::from_utf8(self.bytes(at, len)).unwrap_or_default()
    }

    /// Appends a name of at most 255 bytes; `None` once 4 GiB are full.
    pub(super) fn put(&mut self, name: &str) -> Option<(u32, u8)> {
        let len = u8::try_from(name.len()).ok()?;
        let at = place(self.next, name.len());
        let address = u32::try_from(at).ok()?;
        if at / BYTES == self.chunks.len() {
            self.chunks.push(std::iter::repeat_n(0, BYTES).collect());
        }
        let start = at % BYTES;
        Arc::make_mut(&mut self.chunks[at / BYTES])[start..start + name.len()]
            .copy_from_slice(name.as_bytes());
        self.next = at + name.len();
        Some((address, len))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.chunks.len() * (BYTES + 16) + self.chunks.capacity() * size_of::<Arc<[u8]>>()
    }
}

/// One chunk of key material, allocated on the heap so that no copy is left on a stack.
#[derive(Clone)]
struct SecretChunk(Box<[u8]>);

impl Drop for SecretChunk {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Key material, stored back to back.
#[derive(Clone)]
pub(super) struct Secrets {
    chunks: Vec<Arc<SecretChunk>>,
    next: usize,
}

impl Secrets {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn get(&self, at: u32, len: u8) -> &[u8] {
        if len == 0 {
            return &[];
        }
        let start = at as usize % BYTES;
        &self.chunks[at as usize / BYTES].0[start..start + usize::from(len)]
    }

    /// Appends material of at most 64 bytes; `None` once 4 GiB are full.
    pub(super) fn put(&mut self, material: &[u8]) -> Option<(u32, u8)> {
        let len = u8::try_from(material.len()).ok()?;
        let at = place(self.next, material.len());
        let address = u32::try_from(at).ok()?;
        if at / BYTES == self.chunks.len() {
            self.chunks
                .push(Arc::new(SecretChunk(vec![0; BYTES].into_boxed_slice())));
        }
        self.write(address, material.len()).copy_from_slice(material);
        self.next = at + material.len();
        Some((address, len))
    }

    /// Wipes material from this snapshot. Earlier snapshots keep theirs until they are dropped.
    pub(super) fn wipe(&mut self, at: u32, len: u8) {
        if len > 0 {
            self.write(at, usize::from(len)).zeroize();
        }
    }

    fn write(&mut self, at: u32, len: usize) -> &mut [u8] {
        let start = at as usize % BYTES;
        &mut Arc::make_mut(&mut self.chunks[at as usize / BYTES]).0[start..start + len]
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.chunks.len() * (BYTES + 32) + self.chunks.capacity() * size_of::<Arc<SecretChunk>>()
    }

    #[cfg(test)]
    pub(super) fn holds(&self, material: &[u8]) -> bool {
        self.chunks
            .iter()
            .any(|chunk| chunk.0.windows(material.len()).any(|window| window == material))
    }
}

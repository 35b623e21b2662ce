//! The sources as the door test reads them: code without comments, strings and tests, and the paths that it names.

use std::collections::BTreeSet;
use std::path::Path;

/// A path that a file names, such as `crate::io::postgres::Pool` cut into its segments.
pub struct Named {
    pub line: usize,
    pub segments: Vec<String>,
    /// The name that a `use` gives to the path in this file.
    pub bound: Option<String>,
    /// A `pub use` whose name the file itself does not need: a sign on the door, and no import.
    pub is_sign: bool,
}

/// The code of a file with comments, strings and everything under `#[cfg(test)]` blanked out, line for line; and the modules
/// that exist in tests only (`#[cfg(test)] mod tests;`).
pub fn code(text: &str) -> (String, Vec<String>) {
    let mut code = without_comments_and_strings(text);
    let mut test_modules = Vec::new();
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = end_of_item(&code, start);
        let item = &code[start + "#[cfg(test)]".len()..end];
        if let Some(name) = item
            .trim()
            .trim_start_matches("pub ")
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        {
            test_modules.push(name.trim().to_owned());
        }
        let blank: String = code[start..end]
            .chars()
            .map(|character| if character == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(start..end, &blank);
    }
    (code, test_modules)
}

/// Where the item that begins at `start` ends: after its semicolon, or after the brace that closes its body.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, character) in code[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && (character == '}' || character == ';') {
            return start + at + 1;
        }
    }
    code.len()
}

fn without_comments_and_strings(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let is = |at: usize, pattern: &str| {
        pattern
            .chars()
            .enumerate()
            .all(|(step, want)| characters.get(at + step) == Some(&want))
    };
    let word = |at: usize| at > 0 && (characters[at - 1].is_alphanumeric() || characters[at - 1] == '_');
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let start = at;
        if is(at, "//") {
            while at < characters.len() && characters[at] != '\n' {
                at += 1;
            }
        } else if is(at, "/*") {
            while at < characters.len() && !is(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if characters[at] == 'r'
            && !word(at) | (at > 0 && characters[at - 1] == 'b')
            && (is(at + 1, "\"") || is(at + 1, "#\"") || is(at + 1, "##\""))
        {
            let hashes = (at + 1..).take_while(|&next| is(next, "#")).count();
            let close = format!("\"{}", "#".repeat(hashes));
            at += hashes + 2;
            while at < characters.len() && !is(at, &close) {
                at += 1;
            }
            at += close.len();
        } else if characters[at] == '"' {
            at += 1;
            while at < characters.len() && characters[at] != '"' {
                at += if characters[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if characters[at] == '\'' && (is(at + 1, "\\") || is(at + 2, "'")) {
            // A character, not a lifetime.
            at += if is(at + 1, "\\") { 3 } else { 2 };
            while at < characters.len() && characters[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else {
            code.push(characters[at]);
            at += 1;
            continue;
        }
        let skipped = &characters[start..at.min(characters.len())];
        code.extend(
            skipped
                .iter()
                .map(|&character| if character == '\n' { '\n' } else { ' ' }),
        );
    }
    code
}

/// Every path in the code: the expanded trees of `use`, and each `a::b` elsewhere.
pub fn paths(code: &str) -> Vec<Named> {
    let (mut paths, mut words) = (Vec::new(), BTreeSet::new());
    let tokens = tokens(code);
    let mut at = 0;
    while at < tokens.len() {
        // `use<…>` in a signature captures lifetimes and imports nothing.
        if tokens[at].1 == "use" && tokens.get(at + 1).is_some_and(|next| next.1 != "<") {
            let is_public = at > 0 && ["pub", ")"].contains(&tokens[at - 1].1);
            at = tree(&tokens, at + 1, &[], is_public, &mut paths);
            continue;
        }
        words.insert(tokens[at].1);
        if is_name(tokens[at].1) && tokens.get(at + 1).is_some_and(|next| next.1 == "::") {
            let (line, mut segments) = (tokens[at].0, vec![tokens[at].1.to_owned()]);
            while tokens.get(at + 1).is_some_and(|next| next.1 == "::")
                && tokens.get(at + 2).is_some_and(|next| is_name(next.1))
            {
                segments.push(tokens[at + 2].1.to_owned());
                at += 2;
            }
            paths.push(Named {
                line,
                segments,
                bound: None,
                is_sign: false,
            });
        }
        at += 1;
    }
    for path in &mut paths {
        path.is_sign &= path
            .bound
            .as_ref()
            .is_none_or(|bound| !words.contains(bound.as_str()));
    }
    paths
}

/// Reads one tree of a `use` that begins at `at`, and returns where it ends.
fn tree(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &[String],
    is_public: bool,
    paths: &mut Vec<Named>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut alias = None;
    let line = tokens.get(at).map_or(0, |token| token.0);
    while let Some(&(_, token)) = tokens.get(at) {
        match token {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.1 != "}") {
                    at = tree(tokens, at, &segments, is_public, paths);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.1 == ","));
                }
                return at + 1;
            }
            "as" => {
                alias = tokens.get(at + 1).map(|name| name.1.to_owned());
                at += 2;
            }
            "," | ";" | "}" => break,
            "::" => at += 1,
            "self" if !segments.is_empty() => at += 1,
            name => {
                segments.push(name.to_owned());
                at += 1;
            }
        }
    }
    let bound = alias.or_else(|| segments.last().cloned());
    paths.push(Named {
        line,
        segments,
        bound,
        is_sign: is_public,
    });
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The words and marks of the code with their lines; `::` is one mark.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if first.is_alphanumeric() || first == '_' => rest
                    .find(|next: char| !next.is_alphanumeric() && next != '_')
                    .unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The module that a file is: `src/io/vault/mod.rs` is `["io", "vault"]`.
pub fn module(path: &Path) -> Vec<String> {
    let mut segments: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if segments
        .last()
        .is_some_and(|last| ["mod", "lib"].contains(&last.as_str()))
    {
        segments.pop();
    }
    segments
}

#[test]
fn paths_are_read_from_code_alone() {
    let text = r##"
        //! use crate::comment;
        use crate::a::{self, b::C as D, e};
        pub use self::f::G;
        fn h<'x>(_: &'x str) -> impl Fn() + use<'x> { /* crate::comment */ i::j("crate::text", '"', r#"crate::raw"#) }
        #[cfg(test)]
        mod tests { use crate::test; }
        #[cfg(test)] mod more;
    "##;
    let (code, tests) = code(text);
    let found: Vec<_> = paths(&code)
        .iter()
        .map(|named| named.segments.join("::"))
        .collect();
    assert_eq!(
        found,
        ["crate::a", "crate::a::b::C", "crate::a::e", "self::f::G", "i::j"]
    );
    assert_eq!(tests, ["more"]);
    let line = text
        .lines()
        .position(|line| line.contains("use crate::a"))
        .map(|index| index + 1);
    assert_eq!(paths(&code).first().map(|named| named.line), line);
}

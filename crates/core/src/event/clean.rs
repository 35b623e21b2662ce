//! The clean event: its schema, derived from the plan, and the slow path that transcodes a record whose format is not
//! that of the clean topic.

use apache_avro::Schema;
use serde_json::{Map, Value};

use super::config::Format;
use super::plan::{Field, Kind, Node, Plan};
use super::scalar::{self, Scalar};
use super::sealed::{Clean, Sealed, Untranscodable};
use super::tags::{self, Protect};
use super::wire::{Cursor, SINGLE_OBJECT, write_avro_bytes, write_avro_long, write_json_base64};

/// Derives the clean schema: protected leaves change their type, dropped fields are removed, the rest stays.
pub(super) fn derive(source: &Value, root: &Node, format: Format) -> Result<Clean, String> {
    let mut source = derive_type(source, root);
    if let Some(Value::String(name)) = source.get_mut("name") {
        let (namespace, own) = name
            .rsplit_once('.')
            .map_or(("", &**name), |(namespace, own)| (namespace, own));
        let dot = if namespace.is_empty() { "" } else { "." };
        *name = format!("{namespace}{dot}Clean{own}");
    }
    let schema = Schema::parse(&source).map_err(|error| format!("derived clean schema: {error}"))?;
    let fingerprint = tags::fingerprint(&schema);
    let prefix = match format {
        Format::Json => Vec::new(),
        Format::Avro => [&SINGLE_OBJECT[..], &fingerprint].concat(),
    };
    Ok(Clean {
        source,
        fingerprint,
        format,
        prefix,
    })
}

fn derive_type(source: &Value, node: &Node) -> Value {
    if let (Value::Array(branches), Some(null_branch)) = (source, node.null_branch) {
        let derive = |(index, branch)| {
            if index == usize::from(null_branch) {
                Value::clone(branch)
            } else {
                derive_present(branch, node)
            }
        };
        return branches.iter().enumerate().map(derive).collect();
    }
    derive_present(source, node)
}

fn derive_present(source: &Value, node: &Node) -> Value {
    if let Some(protect) = node.protect.filter(|_| node.is_leaf()) {
        return Value::from(if protect == Protect::Encrypt {
            "bytes"
        } else {
            "string"
        });
    }
    let Value::Object(members) = source else {
        return source.clone();
    };
    let mut members = members.clone();
    let (key, derived) = match (&node.kind, members.get("type")) {
        (_, Some(inner @ (Value::Object(_) | Value::Array(_)))) => ("type", derive_present(inner, node)),
        (Kind::Record(fields), _) => ("fields", derive_fields(members.get("fields"), fields)),
        (Kind::Array(item), _) => (
            "items",
            members
                .get("items")
                .map_or(Value::Null, |items| derive_type(items, item)),
        ),
        (Kind::Map(entry), _) => (
            "values",
            members
                .get("values")
                .map_or(Value::Null, |values| derive_type(values, entry)),
        ),
        _ => return source.clone(),
    };
    members.insert(key.to_owned(), derived);
    Value::Object(members)
}

fn derive_fields(sources: Option<&Value>, fields: &[Field]) -> Value {
    let sources = sources.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let derive = |(source, field): (&Value, &Field)| {
        if field.node.protect == Some(Protect::Drop) {
            return None;
        }
        let mut members = source.as_object().cloned().unwrap_or_default();
        let derived = members
            .get("type")
            .map_or(Value::Null, |schema| derive_type(schema, &field.node));
        members.insert("type".to_owned(), derived);
        members.remove("confluent:tags");
        members.remove("pulsegate:protect");
        if let Some(protect) = leaf_protect(&field.node) {
            members.insert("pulsegate:sealed".to_owned(), Value::from(protect.as_str()));
        }
        Some(Value::Object(members))
    };
    sources.iter().zip(fields).filter_map(derive).collect()
}

/// The protection of a leaf, or of the leaves of an array or a map of leaves.
fn leaf_protect(node: &Node) -> Option<Protect> {
    match &node.kind {
        Kind::Array(item) | Kind::Map(item) => leaf_protect(item),
        _ => node.protect,
    }
}

impl Plan {
    /// Appends a rewritten datum, transcoded from the other format into the clean one.
    pub(super) fn transcode(
        &self,
        from: Format,
        datum: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Untranscodable> {
        match from {
            Format::Avro => self.avro_to_json(datum, out),
            Format::Json => {
                let value = serde_json::from_slice(datum).map_err(|_| untranscodable(&self.root))?;
                encode(&self.root, Some(&value), out)
            }
        }
    }

    /// Converts a clean event of either format to JSON, with ciphertexts as base64.
    ///
    /// # Errors
    /// If the datum is not a clean event of this plan.
    pub fn clean_json(&self, format: Format, datum: &[u8]) -> Result<Value, Untranscodable> {
        let mut json = Vec::new();
        let text = match format {
            Format::Json => datum,
            Format::Avro => {
                self.avro_to_json(datum, &mut json)?;
                &json
            }
        };
        serde_json::from_slice(text).map_err(|_| untranscodable(&self.root))
    }

    /// Visits every protected leaf of a clean event, in the order of the schema. Nulls are skipped.
    pub fn visit_sealed(&self, clean: &mut Value, mut visit: impl FnMut(Sealed<'_>)) {
        visit_sealed(&self.root, String::new(), clean, &mut visit);
    }

    fn avro_to_json(&self, datum: &[u8], out: &mut Vec<u8>) -> Result<(), Untranscodable> {
        let mut cursor = Cursor { bytes: datum, at: 0 };
        decode(&self.root, &mut cursor, out)?;
        if cursor.at == datum.len() {
            Ok(())
        } else {
            Err(untranscodable(&self.root))
        }
    }
}

fn visit_sealed(node: &Node, path: String, value: &mut Value, visit: &mut impl FnMut(Sealed<'_>)) {
    match (&node.kind, value) {
        (_, Value::Null) => {}
        (Kind::Record(fields), Value::Object(members)) => {
            for field in fields {
                if let Some(member) = members.get_mut(&*field.name) {
                    let dot = if path.is_empty() { "" } else { "." };
                    visit_sealed(&field.node, format!("{path}{dot}{}", field.name), member, visit);
                }
            }
        }
        (Kind::Array(item), Value::Array(items)) => {
            for (index, value) in items.iter_mut().enumerate() {
                visit_sealed(item, format!("{path}[{index}]"), value, visit);
            }
        }
        (Kind::Map(entry), Value::Object(members)) => {
            for (key, value) in members {
                visit_sealed(
                    entry,
                    format!("{path}[{}]", Value::from(key.as_str())),
                    value,
                    visit,
                );
            }
        }
        (kind, leaf) => {
            let Some(protect) = node.protect else { return };
            let is_text = matches!(
                kind,
                Kind::String | Kind::Uuid | Kind::Date | Kind::Timestamp(_) | Kind::Enum(_)
            );
            visit(Sealed {
                protect,
                role: node.role,
                path: &path,
                is_text,
                leaf,
            });
        }
    }
}

fn untranscodable(at: &Node) -> Untranscodable {
    Untranscodable {
        path: at.path.clone(),
    }
}

/// Converts the Avro datum of a clean value to JSON.
fn decode(node: &Node, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Untranscodable> {
    let fail = || untranscodable(node);
    if !cursor.present(node.null_branch).ok_or_else(fail)? {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match (&node.kind, node.protect) {
        (Kind::Record(fields), _) => {
            out.push(b'{');
            let kept = fields
                .iter()
                .filter(|field| field.node.protect != Some(Protect::Drop));
            for (index, field) in kept.enumerate() {
                separate(index, out);
                write_json_text(&field.name, out);
                out.push(b':');
                decode(&field.node, cursor, out)?;
            }
            out.push(b'}');
        }
        (Kind::Array(item), _) => {
            out.push(b'[');
            decode_blocks(node, cursor, out, |cursor, out| decode(item, cursor, out))?;
            out.push(b']');
        }
        (Kind::Map(entry), _) => {
            out.push(b'{');
            decode_blocks(node, cursor, out, |cursor, out| {
                write_json_text(cursor.string().ok_or_else(fail)?, out);
                out.push(b':');
                decode(entry, cursor, out)
            })?;
            out.push(b'}');
        }
        (_, Some(Protect::Encrypt)) => write_json_base64(cursor.prefixed().ok_or_else(fail)?, out),
        (_, Some(_)) | (Kind::String | Kind::Uuid, None) => {
            write_json_text(cursor.string().ok_or_else(fail)?, out)
        }
        (Kind::Enum(symbols), None) => {
            let index = cursor.int().and_then(|index| usize::try_from(index).ok());
            write_json_text(index.and_then(|index| symbols.get(index)).ok_or_else(fail)?, out);
        }
        (Kind::Date | Kind::Timestamp(_), None) => {
            out.push(b'"');
            Scalar::read(&node.kind, cursor).ok_or_else(fail)?.write(out);
            out.push(b'"');
        }
        _ => Scalar::read(&node.kind, cursor).ok_or_else(fail)?.write(out),
    }
    Ok(())
}

fn decode_blocks(
    node: &Node,
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
    mut each: impl FnMut(&mut Cursor<'_>, &mut Vec<u8>) -> Result<(), Untranscodable>,
) -> Result<(), Untranscodable> {
    let mut index = 0;
    loop {
        // The rewriter has replaced the heads of blocks that state their size.
        let count = cursor
            .long()
            .filter(|count| *count >= 0)
            .ok_or_else(|| untranscodable(node))?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            separate(index, out);
            each(cursor, out)?;
            index += 1;
        }
    }
}

fn separate(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

fn write_json_text(text: &str, out: &mut Vec<u8>) {
    // Writing a string to a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Converts a clean value in JSON to Avro. `None` is an absent member.
fn encode(node: &Node, value: Option<&Value>, out: &mut Vec<u8>) -> Result<(), Untranscodable> {
    let fail = || untranscodable(node);
    let value = match (value.filter(|value| !value.is_null()), node.null_branch) {
        (None, Some(null_branch)) => {
            write_avro_long(i64::from(null_branch), out);
            return Ok(());
        }
        (Some(value), Some(null_branch)) => {
            write_avro_long(1 - i64::from(null_branch), out);
            value
        }
        (value, None) => value.ok_or_else(fail)?,
    };
    match (&node.kind, node.protect) {
        (Kind::Record(fields), _) => {
            let members = value.as_object().ok_or_else(fail)?;
            for field in fields
                .iter()
                .filter(|field| field.node.protect != Some(Protect::Drop))
            {
                encode(
                    &field.node,
                    members.get(&*field.name).or(field.default.as_ref()),
                    out,
                )?;
            }
        }
        (Kind::Array(item), _) => {
            let items = value.as_array().ok_or_else(fail)?;
            encode_count(items.len(), out);
            items
                .iter()
                .try_for_each(|value| encode(item, Some(value), out))?;
            end_blocks(items.len(), out);
        }
        (Kind::Map(entry), _) => encode_map(value.as_object().ok_or_else(fail)?, entry, out)?,
        (_, Some(Protect::Encrypt)) => {
            let bytes = base64_simd::STANDARD
                .decode_to_vec(value.as_str().ok_or_else(fail)?)
                .map_err(|_| fail())?;
            write_avro_bytes(&bytes, out);
        }
        (_, Some(_)) | (Kind::String | Kind::Uuid, None) => {
            write_avro_bytes(value.as_str().ok_or_else(fail)?.as_bytes(), out);
        }
        (kind, None) => encode_scalar(kind, value, out).ok_or_else(fail)?,
    }
    Ok(())
}

fn encode_map(members: &Map<String, Value>, entry: &Node, out: &mut Vec<u8>) -> Result<(), Untranscodable> {
    encode_count(members.len(), out);
    for (key, value) in members {
        write_avro_bytes(key.as_bytes(), out);
        encode(entry, Some(value), out)?;
    }
    end_blocks(members.len(), out);
    Ok(())
}

fn encode_count(count: usize, out: &mut Vec<u8>) {
    write_avro_long(i64::try_from(count).unwrap_or(i64::MAX), out);
}

/// Writes the empty block that ends an array; the count of an empty array is that block already.
fn end_blocks(count: usize, out: &mut Vec<u8>) {
    if count > 0 {
        out.push(0);
    }
}

/// Writes a scalar or an enum. A date or a time is a number if it comes from a default of the schema.
fn encode_scalar(kind: &Kind, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the walk has checked that it fits a float"
    )]
    match kind {
        Kind::Boolean => out.push(u8::from(value.as_bool()?)),
        Kind::Int | Kind::Long => write_avro_long(value.as_i64()?, out),
        Kind::Float => out.extend_from_slice(&(value.as_f64()? as f32).to_le_bytes()),
        Kind::Double => out.extend_from_slice(&value.as_f64()?.to_le_bytes()),
        Kind::Date | Kind::Timestamp(_) if value.is_i64() => write_avro_long(value.as_i64()?, out),
        Kind::Date => write_avro_long(
            i64::from(scalar::days_from_date(scalar::date(value.as_str()?.as_bytes())?)),
            out,
        ),
        Kind::Timestamp(unit) => {
            let at = scalar::timestamp(value.as_str()?.as_bytes())?;
            write_avro_long(scalar::units_from_timestamp(at, *unit)?, out);
        }
        Kind::Enum(symbols) => {
            let symbol = value.as_str()?;
            write_avro_long(
                i64::try_from(symbols.iter().position(|known| **known == *symbol)?).ok()?,
                out,
            );
        }
        Kind::String | Kind::Uuid | Kind::Record(_) | Kind::Array(_) | Kind::Map(_) => return None,
    }
    Some(())
}

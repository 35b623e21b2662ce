//! The document of a finding that a group has absorbed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::finding::FindingId;

/// A JSON object's members in their order, with the text of their values.
struct Members<'d>(Vec<(&'d str, Cow<'d, RawValue>)>);

/// The document of a finding (as [`super::finding::Finding::json`] makes it) once `group` speaks for it: it names the
/// group and sends no notification; all else stays as it is, byte for byte. `None` when the finding already belongs to a
/// group, or when this is not the document of a finding.
#[must_use]
pub fn absorbed(document: &[u8], group: FindingId) -> Option<Vec<u8>> {
    let Members(mut members) = serde_json::from_slice(document).ok()?;
    let find = |name: &str| members.iter().position(|(member, _)| *member == name);
    let (notify, of) = (find("notify")?, find("group")?);
    if members[of].1.get() != "null" {
        return None;
    }
    members[notify].1 = Cow::Owned(to_raw_value(&false).ok()?);
    members[of].1 = Cow::Owned(to_raw_value(&group).ok()?);
    serde_json::to_vec(&Members(members)).ok()
}

impl<'de: 'd, 'd> Deserialize<'de> for Members<'d> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, &**value)))
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<&'de str, &'de RawValue>()? {
            members.push((name, Cow::Borrowed(value)));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: FindingId = FindingId::from_bytes([7; 16]);

    fn text(document: &str) -> Option<String> {
        absorbed(document.as_bytes(), GROUP).map(|document| String::from_utf8(document).expect("UTF-8"))
    }

    #[test]
    fn two_members_change_and_the_others_stay_byte_for_byte() {
        let document = r#"{"id":"x","value":1.50,"reason":"\"notify\":true, \"group\":null","notify":true,"group":null,"cohort":{"group":null}}"#;
        let expected = r#"{"id":"x","value":1.50,"reason":"\"notify\":true, \"group\":null","notify":false,"group":"GROUP","cohort":{"group":null}}"#;
        assert_eq!(
            text(document),
            Some(expected.replace("GROUP", &GROUP.to_string()))
        );
    }

    #[test]
    fn a_finding_is_absorbed_once() {
        let once = text(r#"{"notify":true,"group":null}"#).expect("absorbed");
        assert_eq!(text(&once), None);
    }

    #[test]
    fn what_is_no_finding_is_left_alone() {
        for document in [
            "",
            "[]",
            "{}",
            r#"{"notify":true}"#,
            r#"{"group":null}"#,
            "{\"notify\":true,",
        ] {
            assert_eq!(text(document), None, "{document}");
        }
    }
}

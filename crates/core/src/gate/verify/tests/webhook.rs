use proptest::prelude::*;

use super::*;
use crate::gate::verify::mac::{webhook_input, webhook_matches};

fn with(header: &str, value: impl Into<Vec<u8>>) -> Record {
    let mut record = good_webhook();
    let place = record
        .headers
        .iter_mut()
        .find(|(name, _)| *name == header)
        .unwrap();
    place.1 = value.into();
    record
}

fn signature() -> String {
    String::from_utf8(good_webhook().headers[2].1.clone()).unwrap()
}

#[test]
fn either_of_two_active_keys_verifies() {
    assert_eq!(good_webhook().check().unwrap().0, "d-hook");
    let new = webhook_record("d-hook", &OTHER_SECRET, "msg_1", &NOW_S.to_string(), b"{}");
    assert_eq!(new.check().unwrap(), good_webhook().check().unwrap());
    let neither = webhook_record("d-hook", &LONG_SECRET, "msg_1", &NOW_S.to_string(), b"{}");
    assert_eq!(neither.check(), Err(Reason::BadSignature));
}

#[test]
fn devices_without_a_usable_key_are_rejected() {
    for (device, expected) in [("nobody", Reason::UnknownKey), ("d-gone", Reason::KeyNotActive)] {
        let record = webhook_record(device, &SECRET, "msg_1", &NOW_S.to_string(), b"{}");
        assert_eq!(record.check(), Err(expected));
    }
}

#[test]
fn different_ids_are_different_messages() {
    let id = |id: &str| {
        webhook_record("d-hook", &SECRET, id, &NOW_S.to_string(), b"{}")
            .check()
            .unwrap()
            .1
            .id
    };
    assert_eq!(id("msg_1"), id("msg_1"));
    assert_ne!(id("msg_1"), id("msg_2"));
}

#[test]
fn ids_and_timestamps_have_one_form() {
    let now = NOW_S.to_string();
    let long = "a".repeat(65);
    for id in ["", "a.b", "msg 1", "msg/1", "msg+1", "ü", "msg_1\n", &long] {
        let record = webhook_record("d-hook", &SECRET, id, &now, b"{}");
        assert_eq!(record.check(), Err(Reason::MalformedSignature), "{id}");
    }
    assert!(
        webhook_record("d-hook", &SECRET, &"a".repeat(64), &now, b"{}")
            .check()
            .is_ok()
    );
    for timestamp in [
        "",
        "01800000000",
        " 1800000000",
        "1800000000 ",
        "+1800000000",
        "-1",
        "1800000000.0",
        "1.8e9",
        "0x1",
        "9223372036854775808",
        "99999999999999999999",
    ] {
        let record = webhook_record("d-hook", &SECRET, "msg_1", timestamp, b"{}");
        assert_eq!(record.check(), Err(Reason::MalformedSignature), "{timestamp}");
    }
    for timestamp in ["0", "9223372036854775807"] {
        let record = webhook_record("d-hook", &SECRET, "msg_1", timestamp, b"{}");
        assert_eq!(record.check(), Err(Reason::Stale), "{timestamp}");
    }
}

/// One signature must not match two splits of the signed bytes.
#[test]
fn the_parts_can_not_be_shifted() {
    let now = NOW_S.to_string();
    let record = webhook_record("d-hook", &SECRET, "msg_1", &now, format!("{now}.{{}}").as_bytes());
    let mut shifted = record.clone();
    shifted.headers[0].1 = format!("msg_1.{now}").into_bytes();
    shifted.value = b"{}".to_vec();
    assert!(record.check().is_ok());
    assert_eq!(shifted.check(), Err(Reason::MalformedSignature));
}

#[test]
fn one_good_signature_in_a_list_is_enough() {
    let (good, wrong) = (signature(), format!("v1,{}", BASE64_STANDARD.encode([0; 32])));
    for list in [
        format!("{wrong} v2,{} {good} {wrong}", &wrong[3..]),
        format!("v1a,anything {good}"),
        format!("{good} {}", ["v0,x"; 7].join(" ")),
    ] {
        assert!(with("webhook-signature", list.as_str()).check().is_ok(), "{list}");
    }
    assert_eq!(
        with("webhook-signature", format!("{wrong} {wrong}")).check(),
        Err(Reason::BadSignature)
    );
}

#[test]
fn invalid_signature_lists_are_malformed() {
    let good = signature();
    let base64 = &good[3..];
    let cases = [
        String::new(),
        " ".into(),
        "v1".into(),
        "v1,".into(),
        base64.into(),
        format!("V1,{base64}"),
        format!("v2,{base64}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}  {good}"),
        format!("{good},{good}"),
        format!("{good}\t{good}"),
        format!("v1, {base64}"),
        format!("v1,{}", base64.trim_end_matches('=')),
        format!("v1,{base64}="),
        format!("v1,{}", BASE64_STANDARD.encode([0; 31])),
        format!("v1,{}", BASE64_STANDARD.encode([0; 33])),
        format!("v1,{}", BASE64_STANDARD.encode([0xff; 32]).replace('/', "_")),
        format!("{good} v1,short"),
        [good.as_str(); 4].join(" "),
        format!("{good} {}", ["v0,x"; 8].join(" ")),
    ];
    for case in cases {
        assert_eq!(
            with("webhook-signature", case.as_str()).check(),
            Err(Reason::MalformedSignature),
            "{case}"
        );
    }
    let mut incomplete = good_webhook();
    incomplete.headers.remove(0);
    assert_eq!(incomplete.check(), Err(Reason::MalformedSignature));
    let mut incomplete = good_webhook();
    incomplete.headers.remove(1);
    assert_eq!(incomplete.check(), Err(Reason::MalformedSignature));
}

#[test]
fn a_body_that_is_not_text_is_malformed() {
    let record = webhook_record(
        "d-hook",
        &SECRET,
        "msg_1",
        &NOW_S.to_string(),
        &[0, 0, 0, 0, 1, 0xff],
    );
    assert_eq!(record.check(), Err(Reason::MalformedSignature));
}

/// Test vector of the Standard Webhooks reference libraries.
#[test]
fn v1_verifies_the_published_vector() {
    let secret = BASE64_STANDARD
        .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .unwrap();
    let mac = BASE64_STANDARD
        .decode("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        .unwrap();
    let parts: [&[u8]; 3] = [
        b"msg_p5jXN8AQM9LWM0D4loKWxJek",
        b"1614265330",
        br#"{"test": 2432232314}"#,
    ];
    let signatures = [[0; 32], mac.try_into().unwrap()];
    let mut buffer = Vec::new();
    let input = webhook_input(parts, &mut buffer);
    assert!(webhook_matches(Some(&secret), input, &signatures));
    assert!(!webhook_matches(None, input, &signatures));
    assert!(!webhook_matches(Some(&secret), input, &signatures[..1]));
    assert!(!webhook_matches(Some(&secret), input, &[]));
}

proptest! {
    #[test]
    fn no_single_byte_can_change(at in any::<prop::sample::Index>(), byte in any::<u8>(), part in 0..4_usize) {
        let mut record = good_webhook();
        let bytes = if part == 3 { &mut record.value } else { &mut record.headers[part].1 };
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(record.check().is_err());
    }

    #[test]
    fn arbitrary_headers_are_rejected(id in prop::collection::vec(any::<u8>(), 0..80), timestamp in prop::collection::vec(any::<u8>(), 0..30), list in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut record = good_webhook();
        for (place, bytes) in record.headers.iter_mut().zip([id, timestamp, list]) {
            place.1 = bytes;
        }
        prop_assert!(record.check().is_err());
    }
}

proptest! {
    /// The reference library of Standard Webhooks signs what this stage accepts, and with another secret what it does not.
    #[test]
    fn the_reference_library_signs_what_verifies(id in "[A-Za-z0-9_-]{1,64}", body in "[ -~]{0,200}") {
        let sign = |secret: &[u8]| {
            let library = standardwebhooks::Webhook::from_bytes(secret.to_vec()).unwrap();
            let signature = library.sign(&id, NOW_S, body.as_bytes()).unwrap();
            let mut record = webhook_record("d-hook", secret, &id, &NOW_S.to_string(), body.as_bytes());
            record.headers[2].1 = signature.into_bytes();
            record
        };
        prop_assert!(sign(&SECRET).check().is_ok());
        prop_assert_eq!(sign(&LONG_SECRET).check(), Err(Reason::BadSignature));
    }
}

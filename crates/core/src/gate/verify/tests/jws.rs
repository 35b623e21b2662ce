use proptest::prelude::*;

use super::*;
use crate::gate::verify::mac::{Mac, SigningInput};

type Sign = dyn Fn(&[u8]) -> Vec<u8>;

fn signed(protected: &str) -> Record {
    jws_record("d-hs", protected, |input| hmac(&SECRET, input))
}

fn with_header(header: impl Into<Vec<u8>>) -> Record {
    let mut record = good_jws();
    record.headers[0].1 = header.into();
    record
}

#[test]
fn both_algorithms_and_both_names_of_ed25519_verify() {
    let id = MessageId::Jws { boot: 3, number: 41 };
    let expected = Sequence {
        issued_ms: NOW_S * 1_000,
        id,
    };
    assert_eq!(good_jws().check(), Ok(("d-hs".to_owned(), expected)));
    for alg in ["Ed25519", "EdDSA"] {
        let record = jws_record("d-ed", &protected(alg, "ed"), ed25519);
        assert_eq!(record.check(), Ok(("d-ed".to_owned(), expected)), "{alg}");
    }
}

#[test]
fn a_verify_only_key_and_a_key_longer_than_a_block_verify() {
    let old = jws_record("d-hs", &protected("HS256", "hs-old"), |input| {
        hmac(&OTHER_SECRET, input)
    });
    assert!(old.check().is_ok());
    let long = jws_record("d-long", &protected("HS256", "hs-long"), |input| {
        hmac(&LONG_SECRET, input)
    });
    assert!(long.check().is_ok());
}

#[test]
fn keys_that_may_not_sign_are_told_apart_from_keys_that_do_not_exist() {
    for (kid, expected) in [
        ("hs-pending", Reason::KeyNotActive),
        ("hs-revoked", Reason::KeyNotActive),
        ("HS", Reason::UnknownKey),
        ("", Reason::UnknownKey),
        ("d-hs", Reason::UnknownKey),
    ] {
        assert_eq!(signed(&protected("HS256", kid)).check(), Err(expected), "{kid}");
        // The state of a key is not secret: it is reported without a valid signature.
        assert_eq!(
            jws_record("d-hs", &protected("EdDSA", kid), ed25519).check(),
            Err(expected),
            "{kid}"
        );
    }
}

#[test]
fn only_the_pinned_algorithm_verifies() {
    for alg in [
        "none", "None", "hs256", "HS384", "HS512", "RS256", "ES256", "Ed448", "ed25519", "", "HS256 ",
    ] {
        assert_eq!(
            signed(&protected(alg, "hs")).check(),
            Err(Reason::BadSignature),
            "{alg}"
        );
    }
    // The classic attack: the public key used as an HMAC secret.
    let public = SigningKey::from_bytes(&SEED).verifying_key().to_bytes();
    let confused = jws_record("d-ed", &protected("HS256", "ed"), |input| hmac(&public, input));
    assert_eq!(confused.check(), Err(Reason::BadSignature));
    let confused = jws_record("d-hs", &protected("EdDSA", "hs"), ed25519);
    assert_eq!(confused.check(), Err(Reason::BadSignature));
}

#[test]
fn none_without_a_signature_is_not_even_well_formed() {
    let record = jws_record("d-hs", &protected("none", "hs"), |_| Vec::new());
    assert_eq!(record.check(), Err(Reason::MalformedSignature));
}

#[test]
fn a_signature_of_something_else_is_bad() {
    let others: [&Sign; 6] = [
        &|input| hmac(&OTHER_SECRET, input),
        &|input| hmac(&SECRET, &[input, b"="].concat()),
        &|input| hmac(&SECRET, input)[..31].to_vec(),
        &|input| hmac(&SECRET, input)[..1].to_vec(),
        &|input| [hmac(&SECRET, input), vec![0]].concat(),
        &ed25519,
    ];
    for sign in others {
        assert_eq!(
            jws_record("d-hs", &protected("HS256", "hs"), sign).check(),
            Err(Reason::BadSignature)
        );
    }
    let mut other_value = good_jws();
    other_value.value.push(b' ');
    assert_eq!(other_value.check(), Err(Reason::BadSignature));
    let other_kid = jws_record("d-hs", &protected("HS256", "hs-old"), |input| {
        hmac(&SECRET, input)
    });
    assert_eq!(other_kid.check(), Err(Reason::BadSignature));
    let short = jws_record("d-ed", &protected("EdDSA", "ed"), |input| {
        ed25519(input)[..63].to_vec()
    });
    assert_eq!(short.check(), Err(Reason::BadSignature));
    // s + L, which a lax verifier accepts as s.
    let malleable = jws_record("d-ed", &protected("EdDSA", "ed"), |input| {
        plus_order(&ed25519(input))
    });
    assert_eq!(malleable.check(), Err(Reason::BadSignature));
}

/// The signature with the group order added to its scalar.
fn plus_order(signature: &[u8]) -> Vec<u8> {
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut sum = signature.to_vec();
    let mut carry = 0;
    for (byte, add) in sum[32..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    sum
}

#[test]
fn the_order_of_members_and_jsons_own_whitespace_are_the_signers_business() {
    for protected in [
        format!(
            r#"{{"jti":"3-41","iat":{NOW_S},"aud":"test/raw","typ":"bio+jws","kid":"hs","alg":"HS256"}}"#
        ),
        format!(
            "\n {{ \"alg\" : \"HS256\",\t\"kid\":\"hs\",\r\n\"typ\":\"bio+jws\",\"aud\":\"test/raw\",\"iat\": {NOW_S} ,\"jti\":\"3-41\" }} \n"
        ),
    ] {
        assert!(signed(&protected).check().is_ok(), "{protected}");
    }
}

#[test]
fn a_protected_header_that_is_not_exactly_the_six_members_is_malformed() {
    let good = protected("HS256", "hs");
    let cases = [
        good.replace('}', r#","exp":1}"#),
        good.replace('}', r#","crit":["b64"],"b64":false}"#),
        good.replace('}', r#","kid":"hs"}"#),
        good.replace('}', r#","alg":"none"}"#),
        good.replace(r#""alg":"HS256","#, ""),
        good.replace(r#""kid":"hs","#, ""),
        good.replace(r#""typ":"bio+jws","#, ""),
        good.replace(r#""aud":"test/raw","#, ""),
        good.replace(&format!(r#""iat":{NOW_S},"#), ""),
        good.replace(r#","jti":"3-41""#, ""),
        good.replace("bio+jws", "JWT"),
        good.replace("bio+jws", "bio+JWS"),
        good.replace("bio+jws", "application/bio+jws"),
        good.replace(r#""HS256""#, "null"),
        good.replace(r#""hs""#, "1"),
        good.replace(r#""test/raw""#, r#"["test/raw"]"#),
        // An escape makes two spellings of one name.
        good.replace("test/raw", r"test\/raw"),
        good.replace(r#""kid":"hs""#, r#""kid":"\u0068s""#),
        good.replace(r#""kid""#, r#""\u006bid""#),
        good.replace(r#""kid""#, r#""KID""#),
        format!("[{good}]"),
        format!(r#"["HS256","hs","bio+jws","test/raw",{NOW_S},"3-41"]"#),
        format!("{good}{good}"),
        format!("{good}x"),
        format!("\u{feff}{good}"),
        good.replace('}', ",}"),
        good.replace('}', ""),
        String::new(),
        "{}".to_owned(),
        "null".to_owned(),
        "   ".to_owned(),
    ];
    for case in cases {
        assert_eq!(signed(&case).check(), Err(Reason::MalformedSignature), "{case}");
    }
}

#[test]
fn numbers_have_one_form() {
    let good = protected("HS256", "hs");
    for iat in [
        "1.8e9",
        "1800000000.0",
        "\"1800000000\"",
        "01800000000",
        "+1",
        "-0",
        "9223372036854775808",
        "NaN",
    ] {
        let case = good.replace(&NOW_S.to_string(), iat);
        assert_eq!(signed(&case).check(), Err(Reason::MalformedSignature), "{iat}");
    }
    for iat in ["9223372036854775807", "-9223372036854775808", "0", "-1"] {
        let case = good.replace(&NOW_S.to_string(), iat);
        assert_eq!(signed(&case).check(), Err(Reason::Stale), "{iat}");
    }
    for jti in [
        "3",
        "3-",
        "-41",
        "-",
        "",
        "03-41",
        "3-041",
        "00-1",
        "3-4-1",
        "3--41",
        "+3-41",
        "3-+41",
        " 3-41",
        "3-41 ",
        "3_41",
        "0x3-41",
        "٣-41",
        "18446744073709551616-1",
        "1-18446744073709551616",
        "99999999999999999999999-1",
    ] {
        let case = good.replace("3-41", jti);
        assert_eq!(signed(&case).check(), Err(Reason::MalformedSignature), "{jti}");
    }
    for (jti, boot, number) in [
        ("0-0", 0, 0),
        ("18446744073709551615-18446744073709551615", u64::MAX, u64::MAX),
    ] {
        let sequence = signed(&good.replace("3-41", jti)).check().unwrap().1;
        assert_eq!(sequence.id, MessageId::Jws { boot, number });
    }
}

#[test]
fn another_audience_is_wrong_even_by_one_byte() {
    for aud in [
        "prod/raw",
        "test/raw2",
        "test/ra",
        "test",
        "",
        "TEST/raw",
        "test/raw/",
    ] {
        let case = protected("HS256", "hs").replace("test/raw", aud);
        assert_eq!(signed(&case).check(), Err(Reason::WrongAudience), "{aud}");
    }
}

#[test]
fn earlier_checks_win_over_later_ones() {
    let stale = protected("HS256", "hs").replace(&NOW_S.to_string(), "1");
    let mut misrouted = signed(&stale);
    misrouted.partition = home("d-hs") ^ 1;
    assert_eq!(misrouted.check(), Err(Reason::Stale));
    let elsewhere = stale.replace("test/raw", "prod/raw");
    assert_eq!(signed(&elsewhere).check(), Err(Reason::WrongAudience));
    let forged = jws_record("d-hs", &elsewhere, |input| hmac(&OTHER_SECRET, input));
    assert_eq!(forged.check(), Err(Reason::BadSignature));
    let unknown = jws_record("d-hs", &elsewhere.replace(r#""hs""#, r#""nobody""#), |input| {
        hmac(&SECRET, input)
    });
    assert_eq!(unknown.check(), Err(Reason::UnknownKey));
}

#[test]
fn the_compact_form_has_two_dots_together_and_nothing_else() {
    let good = String::from_utf8(good_jws().headers[0].1.clone()).unwrap();
    let (protected, signature) = good.split_once("..").unwrap();
    let value = BASE64_URL_SAFE_NO_PAD.encode(&good_jws().value);
    let cases = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        format!("{protected}.."),
        format!("..{signature}"),
        format!("{signature}..{protected}"),
        format!("{protected}.{signature}"),
        format!("{protected}...{signature}"),
        format!("{protected}.{value}.{signature}"),
        format!("{protected}..{signature}."),
        format!("{protected}..{signature}..{signature}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{protected} ..{signature}"),
        format!("{protected}.. {signature}"),
        format!("{protected}\n..{signature}"),
        format!("{good}="),
        format!("{protected}=..{signature}"),
        format!("{protected}==..{signature}"),
        good.replacen('e', "%65", 1),
        format!("{good}\0"),
        format!("Bearer {good}"),
    ];
    for case in cases {
        assert_eq!(
            with_header(case.as_str()).check(),
            Err(Reason::MalformedSignature),
            "{case}"
        );
    }
    assert_eq!(
        with_header([0xff, 0xfe, b'.', b'.']).check(),
        Err(Reason::MalformedSignature)
    );
}

#[test]
fn base64_has_one_form() {
    // 32 bytes leave two unused bits in the last character: three other characters decode to the same bytes.
    let good = good_jws().headers[0].1.clone();
    let last = *good.last().unwrap();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.iter().position(|&letter| letter == last).unwrap();
    for unused in 1..4 {
        let mut header = good.clone();
        *header.last_mut().unwrap() = alphabet[at + unused];
        assert_eq!(with_header(header).check(), Err(Reason::MalformedSignature));
    }
    // The other base64 alphabet, with a signature over that text.
    let protected = BASE64_STANDARD.encode(protected("HS256", "hs?>>"));
    assert!(protected.contains(['+', '/']));
    let mac = hmac(&SECRET, format!("{protected}.").as_bytes());
    let header = format!(
        "{}..{}",
        protected.trim_end_matches('='),
        BASE64_URL_SAFE_NO_PAD.encode(mac)
    );
    assert_eq!(with_header(header).check(), Err(Reason::MalformedSignature));
}

#[test]
fn the_protected_header_ends_at_512_bytes() {
    let pad = |bytes: usize| {
        let good = protected("HS256", "hs");
        good.replace('}', &format!("{}}}", " ".repeat(bytes - good.len())))
    };
    assert!(signed(&pad(512)).check().is_ok());
    assert_eq!(signed(&pad(513)).check(), Err(Reason::MalformedSignature));
    assert_eq!(
        with_header(vec![b'A'; 1 << 20]).check(),
        Err(Reason::MalformedSignature)
    );
    let long = jws_record("d-hs", &protected("HS256", "hs"), |_| vec![0; 65]);
    assert_eq!(long.check(), Err(Reason::MalformedSignature));
}

/// RFC 7515, appendix A.1.
#[test]
fn hs256_verifies_the_published_vector() {
    let secret = BASE64_URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let input = SigningInput {
        protected: b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        value: b"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}",
    };
    let signature = b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let mac = Mac::decode(base64_simd::URL_SAFE_NO_PAD, signature, 64).unwrap();
    assert!(input.hmac_matches(Some(&secret), &mac, &mut Vec::new()));
    assert!(!input.hmac_matches(None, &mac, &mut Vec::new()));
    assert!(!input.hmac_matches(Some(&secret[1..]), &mac, &mut Vec::new()));
}

/// RFC 8037, appendix A.4.
#[test]
fn ed25519_verifies_the_published_vector() {
    let public = BASE64_URL_SAFE_NO_PAD
        .decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
        .unwrap();
    let input = SigningInput {
        protected: b"eyJhbGciOiJFZERTQSJ9",
        value: b"Example of Ed25519 signing",
    };
    let signature = b"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let mac = Mac::decode(base64_simd::URL_SAFE_NO_PAD, signature, 64).unwrap();
    assert!(input.ed25519_matches(Some(&public), &mac, &mut Vec::new()));
    // The key is the stand-in for unknown ones, which must never let anything pass.
    assert!(!input.ed25519_matches(None, &mac, &mut Vec::new()));
}

/// With the identity as public key every message has a signature that a lax verifier takes.
#[test]
fn small_order_points_verify_nothing() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(signature);
    let mac = Mac::decode(base64_simd::URL_SAFE_NO_PAD, encoded.as_bytes(), 64).unwrap();
    let input = SigningInput {
        protected: b"",
        value: b"",
    };
    assert!(!input.ed25519_matches(Some(&identity), &mac, &mut Vec::new()));
}

proptest! {
    /// Whatever changes in header or value, the record is rejected: there is no second spelling of a signed record.
    #[test]
    fn no_single_byte_can_change(at in any::<prop::sample::Index>(), byte in any::<u8>(), in_value in any::<bool>()) {
        let mut record = good_jws();
        let bytes = if in_value { &mut record.value } else { &mut record.headers[0].1 };
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(record.check().is_err());
    }

    #[test]
    fn arbitrary_headers_are_rejected(header in prop::collection::vec(any::<u8>(), 0..900)) {
        prop_assert!(with_header(header).check().is_err());
    }

    #[test]
    fn a_protected_header_that_verifies_has_the_six_members_once(protected in r#"\{("(alg|kid|typ|aud|iat|jti|x)":("(HS256|hs|bio\+jws|test/raw|1-2)"|[0-9]{0,12}),?){0,8}\}?"#) {
        if signed(&protected).check().is_ok() {
            let members: serde_json::Map<_, _> = serde_json::from_str(&protected).expect("an object");
            prop_assert_eq!((members.len(), protected.matches("\":").count()), (6, 6), "{}", protected);
        }
    }

    #[test]
    fn decimals_read_as_they_are_written(number in any::<u64>(), boot in any::<u64>()) {
        let sequence = signed(&protected("HS256", "hs").replace("3-41", &format!("{boot}-{number}"))).check().unwrap().1;
        prop_assert_eq!(sequence.id, MessageId::Jws { boot, number });
    }
}

#![expect(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use super::*;

const TOKEN: [u8; 22] = *b"AAAAAAAAAAAAAAAAAAAAAA";

fn row<'a>(kid: &'a str, device: &'a str, material: &'a [u8]) -> KeyRow<'a> {
    KeyRow {
        kid,
        device,
        tenant: "acme",
        class: "wearable",
        profile: Profile::Jws,
        algorithm: Algorithm::HmacSha256,
        state: KeyState::Active,
        material,
        device_token: &TOKEN,
    }
}

fn applied(rows: &[KeyRow<'_>]) -> Keyring {
    Keyring::empty().apply(rows).unwrap()
}

#[test]
fn names_read_as_they_are_written() {
    for profile in [Profile::Jws, Profile::Webhook] {
        assert_eq!(Profile::from_name(profile.as_str()), Some(profile));
        assert_eq!(serde_json::to_value(profile).unwrap(), profile.as_str());
    }
    for algorithm in [Algorithm::HmacSha256, Algorithm::Ed25519] {
        assert_eq!(Algorithm::from_name(algorithm.as_str()), Some(algorithm));
        assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.as_str());
    }
    for state in [
        KeyState::Pending,
        KeyState::Active,
        KeyState::VerifyOnly,
        KeyState::Revoked,
    ] {
        assert_eq!(KeyState::from_name(state.as_str()), Some(state));
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        assert_eq!(
            KeyEntry {
                flags: KeyEntry::pack(state, Algorithm::Ed25519, Profile::Jws),
                ..KeyEntry::default()
            }
            .state(),
            state
        );
    }
    assert_eq!(Profile::from_name("JWS"), None);
}

#[test]
fn a_key_is_found_by_its_id_with_its_device() {
    let keyring = applied(&[
        row("k1", "d1", &[1; 32]),
        KeyRow {
            tenant: "other",
            class: "pump",
            ..row("k2", "d2", &[2; 40])
        },
    ]);
    let found = keyring.by_kid(b"k2").unwrap();
    assert_eq!(
        (found.key.device, found.key.slot, found.material),
        ("d2", 1, &[2; 40][..])
    );
    assert_eq!(keyring.tenant(found.key.tenant), Some("other"));
    assert_eq!(keyring.classes().collect::<Vec<_>>(), ["wearable", "pump"]);
    assert_eq!(keyring.classes().nth(usize::from(found.key.class)), Some("pump"));
    assert!(
        keyring.by_kid(b"k3").is_none() && keyring.by_kid(b"").is_none() && keyring.by_kid(b"d1").is_none()
    );
}

#[test]
fn a_secret_longer_than_a_block_is_kept_as_its_hash() {
    use sha2::Digest as _;
    let secret = [4; 65];
    let keyring = applied(&[row("k1", "d1", &secret), row("k2", "d2", &[5; 64])]);
    assert_eq!(
        keyring.by_kid(b"k1").unwrap().material,
        sha2::Sha256::digest(secret).as_slice()
    );
    assert_eq!(keyring.by_kid(b"k2").unwrap().material, [5; 64]);
}

#[test]
fn a_snapshot_does_not_change_when_the_next_is_made_from_it() {
    let before = applied(&[row("k1", "d1", &[1; 32])]);
    let revoked = KeyRow {
        state: KeyState::Revoked,
        class: "pump",
        ..row("k1", "d1", &[1; 32])
    };
    let after = before.apply(&[row("k0", "d0", &[3; 32]), revoked]).unwrap();
    let (old, new) = (before.by_kid(b"k1").unwrap(), after.by_kid(b"k1").unwrap());
    assert_eq!(
        (old.state, old.key.class, old.material),
        (KeyState::Active, 0, &[1; 32][..])
    );
    assert_eq!(
        (new.state, new.key.class, new.material),
        (KeyState::Revoked, 1, &[][..])
    );
    assert_eq!(old.key.slot, new.key.slot, "a device keeps its slot");
    assert_eq!((before.devices(), after.devices()), (1, 2));
}

#[test]
fn material_of_keys_that_may_not_verify_is_not_in_the_snapshot() {
    let secret = *b"0123456789abcdef0123456789abcdef";
    let keyring = applied(&[row("k1", "d1", &secret)]);
    assert!(keyring.secrets.holds(&secret));
    for state in [KeyState::Pending, KeyState::Revoked] {
        let after = keyring
            .apply(&[KeyRow {
                state,
                ..row("k1", "d1", &secret)
            }])
            .unwrap();
        assert!(!after.secrets.holds(&secret));
        assert!(
            !applied(&[KeyRow {
                state,
                ..row("k1", "d1", &secret)
            }])
            .secrets
            .holds(&secret)
        );
        let again = after.apply(&[row("k1", "d1", &secret)]).unwrap();
        assert_eq!(again.by_kid(b"k1").unwrap().material, secret);
    }
    let replaced = keyring.apply(&[row("k1", "d1", &[8; 32])]).unwrap();
    assert!(!replaced.secrets.holds(&secret));
}

#[test]
fn a_device_rotates_between_two_keys_whatever_the_order_of_the_rows() {
    let keyring = applied(&[row("k1", "d1", &[1; 32]), row("k2", "d1", &[2; 32])]);
    let third = row("k3", "d1", &[3; 32]);
    let revoked = KeyRow {
        state: KeyState::Revoked,
        ..row("k1", "d1", &[1; 32])
    };
    assert!(matches!(keyring.apply(&[third]), Err(KeyringError::TooManyKeys)));
    for rows in [[third, revoked], [revoked, third]] {
        let after = keyring.apply(&rows).unwrap();
        assert_eq!(
            ["k1", "k2", "k3"].map(|kid| after.by_kid(kid.as_bytes()).unwrap().state.verifies()),
            [false, true, true]
        );
    }
    // A key that is added and revoked in the same change takes no place.
    let gone = KeyRow {
        state: KeyState::Revoked,
        ..third
    };
    assert!(keyring.apply(&[third, gone]).is_ok());
}

#[test]
fn webhook_keys_are_found_by_device() {
    let hook = |kid, state, material| KeyRow {
        profile: Profile::Webhook,
        state,
        ..row(kid, "d1", material)
    };
    let keyring = applied(&[
        hook("k1", KeyState::VerifyOnly, &[1; 24]),
        hook("k2", KeyState::Active, &[2; 24]),
        row("k3", "d2", &[3; 32]),
    ]);
    let materials = |keyring: &Keyring| {
        keyring
            .webhook_keys(b"d1")
            .unwrap()
            .into_iter()
            .flatten()
            .map(|found| found.material.to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(materials(&keyring), [[1; 24], [2; 24]]);
    assert!(keyring.webhook_keys(b"d2").is_none() && keyring.webhook_keys(b"d3").is_none());
    let one = keyring.apply(&[hook("k1", KeyState::Revoked, &[1; 24])]).unwrap();
    assert_eq!(materials(&one), [[2; 24]]);
    let none = one.apply(&[hook("k2", KeyState::Pending, &[2; 24])]).unwrap();
    assert_eq!(materials(&none), Vec::<Vec<u8>>::new());
}

#[test]
fn rows_that_break_a_rule_are_refused_without_naming_a_value() {
    let public = ed25519_dalek::SigningKey::from_bytes(&[1; 32])
        .verifying_key()
        .to_bytes();
    let mut identity = [0; 32];
    identity[0] = 1;
    let long = "x".repeat(129);
    let ed25519 = |material| KeyRow {
        algorithm: Algorithm::Ed25519,
        ..row("k", "d", material)
    };
    assert!(ed25519(&public).check().is_ok());
    for (bad, expected) in [
        (row("", "d", &[0; 32]), KeyringError::Kid),
        (row("a\"b", "d", &[0; 32]), KeyringError::Kid),
        (row("a\\b", "d", &[0; 32]), KeyringError::Kid),
        (row("ü", "d", &[0; 32]), KeyringError::Kid),
        (row(&long, "d", &[0; 32]), KeyringError::Kid),
        (row("k", "", &[0; 32]), KeyringError::Device),
        (row("k", &long, &[0; 32]), KeyringError::Device),
        (row("k", "d", &[0; 31]), KeyringError::Secret),
        (row("k", "d", &[0; 257]), KeyringError::Secret),
        (
            KeyRow {
                profile: Profile::Webhook,
                ..row("k", "d", &[0; 23])
            },
            KeyringError::Secret,
        ),
        (
            KeyRow {
                profile: Profile::Webhook,
                ..ed25519(&public)
            },
            KeyringError::WebhookAlgorithm,
        ),
        (ed25519(&public[1..]), KeyringError::PublicKey),
        (ed25519(&identity), KeyringError::PublicKey),
    ] {
        assert_eq!(Keyring::empty().apply(&[bad]).err(), Some(expected));
        assert_eq!(format!("{bad:?}"), "KeyRow([redacted])");
    }
    let taken = applied(&[row("k", "d1", &[0; 32])]).apply(&[row("k", "d2", &[0; 32])]);
    assert_eq!(taken.err(), Some(KeyringError::KidTaken));
}

#[test]
fn the_number_of_classes_is_limited() {
    let names: Vec<_> = (0..=CLASSES_MAX).map(|class| format!("c{class}")).collect();
    let mut builder = KeyringBuilder::default();
    let mut put = |class: &str| {
        builder.put(&KeyRow {
            class,
            ..row("k", "d", &[0; 32])
        })
    };
    assert!(names[..CLASSES_MAX].iter().all(|class| put(class).is_ok()));
    assert_eq!(put(&names[CLASSES_MAX]), Err(KeyringError::Full));
    let keyring = builder.finish().unwrap();
    let key = keyring.by_kid(b"k").unwrap().key;
    assert_eq!(
        usize::from(key.class),
        CLASSES_MAX - 1,
        "a refused row changes nothing"
    );
}

/// CPU time of this thread in nanoseconds, which does not depend on the load of the machine.
fn thread_ns() -> u64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

/// The required bound: a million devices in 200 MB, loaded in 10 s. The names are as long as in practice.
#[test]
fn a_million_devices_fit() {
    const DEVICES: u32 = 1_000_000;
    let started = thread_ns();
    let mut builder = KeyringBuilder::default();
    for number in 0..DEVICES {
        let device = uuid::Uuid::from_u128(u128::from(number) << 64 | 7).to_string();
        let kid = format!("{device}-a");
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(&number.to_le_bytes());
        builder.put(&row(&kid, &device, &secret)).unwrap();
    }
    let keyring = builder.finish().unwrap();
    let (elapsed_ms, bytes) = ((thread_ns() - started) / 1_000_000, keyring.heap_bytes());
    println!("{DEVICES} devices: {bytes} bytes, {elapsed_ms} ms");
    assert_eq!(keyring.devices(), DEVICES);
    assert!(bytes <= 200_000_000, "{bytes} bytes");
    assert!(elapsed_ms < 10_000, "{elapsed_ms} ms");

    // A snapshot derived from it shares its rows and still finds them.
    let device = uuid::Uuid::from_u128(7).to_string();
    let kid = format!("{device}-a");
    let revoked = KeyRow {
        state: KeyState::Revoked,
        ..row(&kid, &device, &[0; 32])
    };
    let after = keyring.apply(&[revoked]).unwrap();
    assert_eq!(after.by_kid(kid.as_bytes()).unwrap().state, KeyState::Revoked);
}

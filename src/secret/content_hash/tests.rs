use super::*;

const OPAQUE: SecretType = SecretType::Opaque;

fn key(byte: u8) -> HashKey {
    HashKey::from_bytes(&[byte; KEY_LENGTH]).unwrap()
}

fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretSlice<u8>> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec().into()))
        .collect()
}

#[test]
fn equal_content_gives_equal_hash_and_any_change_another_one() {
    let hash = key(1).content_hash("uid", OPAQUE, &data(&[("A", "b"), ("C", "")]));
    assert_eq!(
        hash,
        key(1).content_hash("uid", OPAQUE, &data(&[("C", ""), ("A", "b")]))
    );
    assert_eq!(hash.len(), 43);
    for other in [
        key(2).content_hash("uid", OPAQUE, &data(&[("A", "b"), ("C", "")])),
        key(1).content_hash("uid2", OPAQUE, &data(&[("A", "b"), ("C", "")])),
        key(1).content_hash("uid", OPAQUE, &data(&[("A", "b")])),
        key(1).content_hash("uid", OPAQUE, &data(&[("A", ""), ("C", "b")])),
        key(1).content_hash("uid", OPAQUE, &data(&[("Ab", ""), ("C", "")])),
        key(1).content_hash("uidA", OPAQUE, &data(&[("b", "C")])),
        key(1).content_hash("uid", OPAQUE, &data(&[])),
        key(1).content_hash("uid", SecretType::Tls, &data(&[("A", "b"), ("C", "")])),
    ] {
        assert_ne!(hash, other);
    }
}

#[test]
fn is_hmac_sha_256_of_the_length_prefixed_parts() {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&[7; KEY_LENGTH]).unwrap();
    mac.update(b"\0\0\0\0\0\0\0\x22doppler-prefect.dev/content-hash/1");
    mac.update(b"\0\0\0\0\0\0\0\x01u\0\0\0\0\0\0\0\x01A\0\0\0\0\0\0\0\x02bc");
    assert_eq!(
        key(7).content_hash("u", OPAQUE, &data(&[("A", "bc")])),
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    );
}

#[test]
fn key_is_random_and_redacted_in_debug_output() {
    assert_ne!(HashKey::generate().expose(), HashKey::generate().expose());
    assert_eq!(format!("{:?}", key(65)), "HashKey([redacted])");
    assert!(HashKey::from_bytes(&[1; 31]).is_none());
}

use super::*;

const FILE: &str = r#"
[[key]]
name = "search"
key = "sk-0123456789abcdef"
tenant = "acme"
priority = 3
most-urgent-priority = 1
requests-per-minute = 2
tokens-per-minute = 100

[[key]]
name = "ops"
# printf %s sk-operators-own-key | sha256sum
sha256 = "HASH"
admin = true
"#;

fn file() -> String {
    let hash = Sha256::digest("sk-operators-own-key");
    FILE.replace("HASH", &format!("{hash:x}"))
}

fn ring(keys: &[&str]) -> KeyRing {
    KeyRing::new(keys.iter().copied()).unwrap()
}

fn check(keys: &KeyRing, value: &str) -> Result<Client, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value.parse().unwrap());
    keys.check(&headers)
}

#[test]
fn any_of_the_keys_opens() {
    let keys = ring(&["one", "two"]);
    assert_eq!(&*check(&keys, "Bearer one").unwrap().name, "key-1");
    assert_eq!(&*check(&keys, "bearer  two ").unwrap().name, "key-2");
    for wrong in ["Bearer three", "Bearer", "Bearer ", "Basic one", "one", "Bearer one two"] {
        assert!(check(&keys, wrong).is_err(), "{wrong}");
    }
    assert!(keys.check(&HeaderMap::new()).is_err());
    assert!(ring(&[]).check(&HeaderMap::new()).is_ok());
}

#[test]
fn a_file_says_who_each_key_is() {
    let keys = ring(&["plain"]).with_file(&parse(&file()).unwrap()).unwrap();
    let search = check(&keys, "Bearer sk-0123456789abcdef").unwrap();
    assert_eq!(&*search.name, "search");
    assert_eq!((search.priority, search.most_urgent, search.role), (3, 1, Role::User));
    assert_ne!(search.tenant, TenantId(0));
    assert!(search.allowance.is_some());
    let ops = check(&keys, "Bearer sk-operators-own-key").unwrap();
    assert_eq!((&*ops.name, ops.role), ("ops", Role::Admin));
    assert_eq!((ops.priority, ops.most_urgent, ops.tenant), (0, i32::MIN, TenantId(0)));
    assert!(ops.allowance.is_none());
    assert_eq!(check(&keys, "Bearer plain").unwrap().role, Role::Admin);
    assert!(!format!("{keys:?} {:?}", parse(&file())).contains("0123456789"));
}

#[test]
fn other_keys_take_the_place_of_those_before_and_rates_go_on() {
    let keys = ring(&[]).with_file(&parse(&file()).unwrap()).unwrap();
    let before = check(&keys, "Bearer sk-0123456789abcdef").unwrap().allowance.unwrap();
    before.take_request().unwrap();
    before.take_request().unwrap();
    before.take_request().unwrap_err();
    let renewed = file().replace("sk-0123456789abcdef", "sk-another-key-of-search");
    keys.replace(&parse(&renewed).unwrap()).unwrap();
    assert!(check(&keys, "Bearer sk-0123456789abcdef").is_err());
    let after = check(&keys, "Bearer sk-another-key-of-search").unwrap().allowance.unwrap();
    after.take_request().unwrap_err();
    // A higher rate reaches those who hold the allowance already.
    let higher = renewed.replace("requests-per-minute = 2", "requests-per-minute = 3");
    keys.replace(&parse(&higher).unwrap()).unwrap();
    before.take_request().unwrap();
}

#[test]
fn what_cannot_be_taken_changes_nothing() {
    let keys = ring(&["sk-0123456789abcdef"]);
    let error = keys.replace(&parse(&file()).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "key-1 and search are the same key");
    assert!(keys.replace(&[]).is_err());
    for name in ["key-1", "default"] {
        let text = format!("[[key]]\nname = {name:?}\nkey = \"sk-a-key-of-its-own\"\n");
        let error = keys.replace(&parse(&text).unwrap()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("taken"), "{error}");
    }
    assert!(ring(&[]).with_file(&[]).is_err(), "a file without keys opens nothing");
    assert_eq!(&*check(&keys, "Bearer sk-0123456789abcdef").unwrap().name, "key-1");
    assert!(check(&keys, "Bearer sk-operators-own-key").is_err());
}

#[test]
fn what_is_wrong_with_a_file_is_said_by_line_and_without_the_key() {
    let secret = "sk-0123456789abcdef";
    for (from, to, expected) in [
        ("name = \"search\"", "name = \"sea rch\"", "line 2"),
        ("name = \"search\"", "name = \"\"", "name = \"\""),
        ("name = \"ops\"", "name = \"search\"", "given twice"),
        ("tenant", "tenent", "tenent"),
        ("sk-0123456789abcdef", "sk-0123", "7 bytes"),
        ("sk-0123456789abcdef", "sk-0123456789abcdef ö", "visible ASCII"),
        ("key = \"sk-0123456789abcdef\"", "", "either key or sha256"),
        ("key = \"sk-0123456789abcdef\"", "key = \"sk-0123456789abcdef", "line 4"),
        ("sha256 = \"", "sha256 = \"0", "64 hexadecimal"),
        ("requests-per-minute = 2", "requests-per-minute = 0", "at least 1"),
        ("requests-per-minute = 2", "requests-per-minute = -2", "line 8"),
        ("most-urgent-priority = 1", "most-urgent-priority = 4", "more urgent than"),
        ("admin = true", "admin = \"yes\"", "boolean"),
        ("[[key]]", "[[keys]]", "keys"),
    ] {
        let text = file();
        assert!(text.contains(from), "{from}");
        let error = parse(&text.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected), "{to}: {error}");
        assert!(!error.contains(secret), "{to}: {error}");
    }
}

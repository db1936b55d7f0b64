use super::*;

use std::path::PathBuf;
use std::sync::Mutex;

fn upstreams(list: &str) -> Upstreams {
    with_netrc(list, None)
}

fn with_netrc(list: &str, netrc: Option<PathBuf>) -> Upstreams {
    let config = ModProxyConfig {
        upstream: list.parse().unwrap(),
        private: String::new(),
        offline: false,
        ttl: Duration::ZERO,
        stale: Duration::ZERO,
        sumdb: Vec::new(),
        verify: false,
        nosum: String::new(),
        netrc,
    };
    Upstreams::new(&config).unwrap()
}

fn names(list: &str, private: bool) -> Vec<String> {
    let asked = Mutex::new(Vec::new());
    let upstreams = upstreams(list);
    let _ = upstreams.ask(private, |u| -> Result<(), _> {
        asked.lock().unwrap().push(u.to_string());
        Err(match u.to_string().chars().last() {
            Some('4') => FetchError::Absent(404, "no".into()),
            _ => FetchError::Failed(502, format!("{u} is down")),
        })
    });
    asked.into_inner().unwrap()
}

#[test]
fn commas_and_bars() {
    assert_eq!(names("http://a4,http://b", false), ["http://a4", "http://b"]);
    assert_eq!(names("http://a,http://b", false), ["http://a"]);
    assert_eq!(names("http://a|http://b", false), ["http://a", "http://b"]);
    assert_eq!(names("http://a4,off,http://b", false), ["http://a4"]);
    assert_eq!(names("http://a4,direct", false), ["http://a4"]);
    assert_eq!(names(" http://a4/ ,, http://b ", false), ["http://a4", "http://b"]);
}

#[test]
fn a_failure_outranks_an_absence() {
    let list = upstreams("http://a|http://b4|direct");
    let got = list.ask(false, |u| -> Result<(), _> {
        if u.to_string() == "http://a" {
            Err(FetchError::Failed(502, "down".into()))
        } else {
            Err(FetchError::Absent(404, "no".into()))
        }
    });
    assert_eq!(got, Err(FetchError::Failed(502, "down".into())));
    let nobody = upstreams("off").ask(false, |_| Ok(()));
    assert!(matches!(nobody, Err(FetchError::Absent(404, why)) if why.contains("off")));
}

#[test]
fn private_modules_are_asked_of_those_alone_that_are_named_for_them() {
    let list = "https://proxy.example,https://corp4#private,http://other|file:///x#private,direct";
    assert_eq!(names(list, true), ["https://corp4", "file:///x"], "the directory fails, so that is the end");
    assert_eq!(names("https://corp4#private,direct", true), ["https://corp4", "direct"]);
    assert_eq!(names("https://corp4,http://b", true), [""; 0]);
    assert_eq!(names(list, false).len(), 1);
}

#[test]
fn credentials_stay_out_of_names() {
    let dir = std::env::temp_dir().join(format!("gcp-netrc-{}", std::process::id()));
    std::fs::write(&dir, "machine b.example login nu password np\n").unwrap();
    let list =
        "https://us%40er:pa%3Ass@a.example:8443/base/,https://b.example:81,http://b.example,http://u:p@c.example";
    let upstreams = with_netrc(list, Some(dir.clone()));
    std::fs::remove_file(&dir).unwrap();
    let auth: Vec<_> = upstreams.entries.iter().map(|u| (u.to_string(), u.authorization.clone())).collect();
    let basic = |s: &str| Some(format!("Basic {}", STANDARD.encode_to_string(s.as_bytes())));
    assert_eq!(auth[0], ("https://a.example:8443/base".into(), basic("us@er:pa:ss")));
    assert_eq!(auth[1], ("https://b.example:81".into(), basic("nu:np")));
    // over plain http nothing goes
    assert_eq!(auth[2], ("http://b.example".into(), None));
    assert_eq!(auth[3], ("http://c.example".into(), None));
    assert!(!format!("{} {}", upstreams.entries[0], upstreams.entries[1]).contains("pa"));
}

#[test]
fn who_drips_is_given_up() {
    struct Drip;
    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            buf[0] = b'x';
            Ok(1)
        }
    }
    let upstream = Upstream::at(&"http://a".parse().unwrap());
    let ask = Ask::small(&upstream, "x", 1 << 20, Duration::ZERO);
    let slow = copy(&mut Drip, &ask, &mut io::sink());
    assert_eq!(slow, Err(FetchError::Failed(504, "http://a/x: slower than 1.0 KiB a second".into())));
    assert_eq!(copy(&mut io::repeat(b'x').take(100_000), &ask, &mut io::sink()), Ok(100_000));
}

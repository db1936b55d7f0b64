//! How counts, bytes and shares are written for people, wherever they are.

use percent_encoding::percent_decode_str;

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `1,234 files`; `2 misses`, `2 entries`.
pub fn things(n: u64, name: &str) -> String {
    let many = match name.strip_suffix('y') {
        _ if n == 1 => name.to_string(),
        Some(stem) => format!("{stem}ies"),
        None if name.ends_with('s') => format!("{name}es"),
        None => format!("{name}s"),
    };
    format!("{} {many}", count(n))
}

/// The verb that goes with [`things`].
pub fn verb(n: u64, of_one: &'static str, of_many: &'static str) -> &'static str {
    if n == 1 { of_one } else { of_many }
}

/// `512 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // what would round to 1024 is one of the next unit
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A text as one word of a line: in quotes where it would not be one.
pub fn word(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
    if plain { text.to_string() } else { format!("{text:?}") }
}

/// `12 s`, `5 min`, `3 h`, `30 days`: in whole units.
pub fn age(age: std::time::Duration) -> String {
    match age.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", count(s / 86_400)),
    }
}

/// `97.3 %`; a dash where there is nothing to divide.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_string();
    }
    let share = part as f64 * 100.0 / whole as f64;
    // never claim all or nothing when it is not
    let share = if part < whole { share.min(99.9) } else { share };
    let share = if part > 0 { share.max(0.1) } else { share };
    format!("{share:.1} %")
}

/// The first of these reasons that holds, as an error.
pub fn first_of(reasons: &[(bool, &'static str)]) -> Result<(), &'static str> {
    reasons.iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, why)| Err(why))
}

/// The number that is written with digits alone, without a sign; one that is too large is as large as can be.
pub fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Undoes `%xx`; `None` for malformed escapes and what is not text.
pub fn percent_decode(text: &str) -> Option<String> {
    let digits = |at: usize| text.as_bytes().get(at + 1..at + 3);
    let mut escapes = text.match_indices('%');
    let sound = escapes.all(|(at, _)| digits(at).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)));
    let decoded = percent_decode_str(text).decode_utf8().ok().filter(|decoded| sound && !decoded.contains('\0'))?;
    Some(decoded.into_owned())
}

/// A text with the user, the password and the query of every URL in it left out.
pub fn without_secrets(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out += before;
        let host = after.find(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace()).unwrap_or(after.len());
        let url = &after[after[..host].rfind('@').map_or(0, |user| user + 1)..];
        let (word, after) = url.split_at(url.find(char::is_whitespace).unwrap_or(url.len()));
        rest = url;
        if let Some(query) = word.find('?').filter(|at| !word[..*at].contains("://")) {
            out += &word[..query];
            // what comes before the reason in a line is no part of it
            out += if word.ends_with(':') { ":" } else { "" };
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        for (text, shown) in [
            (
                "--upstream=https://u:p@w@a.example/x@y,http://b.example|https://t@c.example",
                "--upstream=https://a.example/x@y,http://b.example|https://c.example",
            ),
            ("serve ?a=b", "serve ?a=b"),
            ("https://u:p,'w)@h/x?a,b https://i", "https://h/x https://i"),
            ("https://a:b@", "https://"),
            ("GET https://h/x?sig=1/2@3: refused", "GET https://h/x: refused"),
            ("(https://h/?a=(b),'c\"<d>|e, https://u@i/#f", "(https://h/ https://i/#f"),
            ("https://a/x,https://u:p@b/y?q,https://u:p@c: x", "https://a/x,https://b/y: x"),
            ("https://h/x: no https://i/y?z", "https://h/x: no https://i/y"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([things(0, "file"), things(1, "file"), things(1000, "file")], ["0 files", "1 file", "1,000 files"]);
        assert_eq!([things(1, "miss"), things(2, "miss"), things(2, "entry")], ["1 miss", "2 misses", "2 entries"]);
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(10_240), bytes(1 << 20), bytes((1 << 20) - 1), bytes(u64::MAX)],
            ["0 B", "1023 B", "1.0 KiB", "10 KiB", "1.0 MiB", "1.0 MiB", "16 EiB"]
        );
        assert_eq!(
            [59, 60, 7200, 172_800].map(|s| age(std::time::Duration::from_secs(s))),
            ["59 s", "1 min", "2 h", "2 days"]
        );
        assert_eq!([percent(1, 0), percent(0, 5), percent(5, 5)], ["–", "0.0 %", "100.0 %"]);
        assert_eq!([percent(99_999, 100_000), percent(1, 100_000)], ["99.9 %", "0.1 %"]);
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!([number("0"), number("007"), number(&u64::MAX.to_string())], [Some(0), Some(7), Some(u64::MAX)]);
        assert_eq!(number("99999999999999999999999"), Some(u64::MAX));
        for wrong in ["", "+1", "-1", " 1", "1 ", "0x1", "1.0", "\u{661}"] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(percent_decode("a%20b%2525").as_deref(), Some("a b%25"));
        for wrong in ["%", "%2", "%zz", "%00", "%ff", "%%41", "%+1", "a%2é"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }
}

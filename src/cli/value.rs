//! Values as Go programs take them: bools, integers, durations; and sizes.

use std::time::Duration;

/// The longest duration that Go has, some 292 years.
pub(super) const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number without a sign, in decimal or with Go's prefixes `0x`, `0o`, `0b`.
pub(super) fn integer(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        _ => (&lower[..], 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Go's `time.ParseDuration` for what is not negative, and days: `90s`, `1h30m`, `1.5h`, `7d`, `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, fraction, after) = number(rest)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit: u128 = match &after[..unit_len] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return None,
        };
        nanos += u128::from(whole) * unit + scaled(fraction, unit);
        if nanos > LONGEST.as_nanos() {
            return None;
        }
        rest = &after[unit_len..];
    }
    Some(Duration::from_nanos(nanos as u64))
}

/// A number of bytes: `1048576`, `500MiB`, `10GB`, `1.5G`. `K`, `KiB` and so on are powers of 1024,
/// `KB` and so on powers of 1000.
pub(super) fn size(text: &str) -> Option<u64> {
    let (whole, fraction, unit) = number(text)?;
    let unit: u128 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    u64::try_from(u128::from(whole) * unit + scaled(fraction, unit)).ok().filter(|n| *n < 1 << 63)
}

/// Splits a decimal number off the front: whole part, digits of the fraction, what follows.
fn number(text: &str) -> Option<(u64, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, mut after) = text.split_at(end);
    let mut fraction = "";
    if let Some(tail) = after.strip_prefix('.') {
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        (fraction, after) = tail.split_at(end);
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    Some((whole, fraction, after))
}

/// `0.fraction` of `unit`, rounded down.
fn scaled(fraction: &str, unit: u128) -> u128 {
    let (mut sum, mut scale) = (0, unit);
    for digit in fraction.bytes().take(18) {
        sum = sum * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    // sum / 10^digits * unit, in integers
    sum * unit / (scale / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bools_are_those_of_go() {
        assert_eq!(boolean("T"), Some(true));
        assert_eq!(boolean("False"), Some(false));
        for wrong in ["yes", "", "tRUE", "2", " 1"] {
            assert_eq!(boolean(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn integers_take_prefixes_and_no_sign() {
        assert_eq!(integer("12"), Some(12));
        assert_eq!(integer("0x1F"), Some(31));
        assert_eq!(integer("0b11"), Some(3));
        for wrong in ["", "-1", "+1", "0x+1", "1.5", "4 ", "18446744073709551616", "0x", "é1"] {
            assert_eq!(integer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, ms) in [
            ("90s", 90_000),
            ("36h", 129_600_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("100ms", 100),
            ("0", 0),
            ("0s", 0),
            ("+2s", 2_000),
            ("2000000us", 2_000),
            ("1h1h", 7_200_000),
            ("7d", 604_800_000),
            ("1.5d1h", 133_200_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("1.5ns"), Some(Duration::from_nanos(1)));
        assert_eq!(duration("3µs"), Some(Duration::from_micros(3)));
        for wrong in [
            "", "1", "s", "-1s", "1w", "d", "-1d", "106752d", "1 s", "1s ", ".s", "9999999999h", "1h30", "+",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("10GB", 10_000_000_000),
            ("500MiB", 500 << 20),
            ("1.5g", 3 << 29),
            ("64k", 64 << 10),
            ("1 TB", 1_000_000_000_000),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for wrong in ["", "GB", "-1", "1.2.3", "10XB", "99999999999TB", "1e9"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}

//! The little XML that S3 and STS answer with: flat elements with text, found by name.
//!
//! This is no parser: it finds the first `<name>…</name>` and undoes the five named and the
//! numeric entities. That holds for these answers, whose element names do not nest in themselves.

/// The text of the first element `name` in `xml`.
pub fn text(xml: &str, name: &str) -> Option<String> {
    element(xml, name).map(|(inner, _)| unescape(inner))
}

/// The insides of every element `name`, one after another.
pub fn elements<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (inner, after) = element(rest, name)?;
        rest = after;
        Some(inner)
    })
}

/// The inside of the first element `name`, and what follows it.
fn element<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = xml;
    loop {
        let at = rest.find('<')?;
        rest = &rest[at + 1..];
        let Some(tail) = rest.strip_prefix(name) else { continue };
        if !tail.starts_with(['>', '/', ' ', '\t', '\r', '\n']) {
            continue;
        }
        let end = tail.find('>')?;
        let inner = &tail[end + 1..];
        if tail[..end].ends_with('/') {
            return Some(("", inner));
        }
        let close = format!("</{name}>");
        let at = inner.find(&close)?;
        return Some((&inner[..at], &inner[at + close.len()..]));
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest[1..].split_once(';').and_then(|(name, after)| Some((decode(name)?, after)));
        match entity {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn decode(entity: &str) -> Option<char> {
    match entity {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_text_and_undoes_entities() {
        let xml = "<?xml version=\"1.0\"?><Error xmlns=\"x\"><Codes>no</Codes><Code>A&amp;B &#65;&#x42;&quot;&nope;&</Code></Error>";
        assert_eq!(text(xml, "Code").unwrap(), "A&B AB\"&nope;&");
        assert_eq!(text(xml, "Message"), None);
        assert_eq!(text("<L xmlns=\"y\"/>", "L").unwrap(), "");
        assert_eq!(text("<L a=\"b\">eu</L>", "L").unwrap(), "eu");
    }

    #[test]
    fn walks_over_repeated_elements() {
        let xml = "<R><C><K>a</K></C><X/><C><K>b</K></C></R>";
        let keys: Vec<_> = elements(xml, "C").map(|c| text(c, "K").unwrap()).collect();
        assert_eq!(keys, ["a", "b"]);
    }

    #[test]
    fn broken_input_is_nothing() {
        for xml in ["", "<", "<Code", "<Code>", "<Code>x", "</Code>", "<Code>x</Cod"] {
            assert_eq!(text(xml, "Code"), None, "{xml}");
        }
    }
}

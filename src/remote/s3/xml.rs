//! The little XML that S3 and STS answer with: elements with text, found by name at any depth, the
//! first one in the document's order. A document that breaks off before an element ends has none.

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::Event;

/// The text of the first element `name` in `xml`; entities that are not XML's stay as they stand.
pub fn text(xml: &str, name: &str) -> Option<String> {
    let mut reader = reader(element(xml, name)?.0);
    let mut out = String::new();
    loop {
        match reader.read_event().ok()? {
            Event::Text(text) => out += &text.decode().ok()?,
            Event::CData(text) => out += &text.decode().ok()?,
            Event::GeneralRef(entity) => {
                let entity = format!("&{};", entity.decode().ok()?);
                out += &unescape(&entity).unwrap_or(entity.as_str().into());
            }
            Event::Eof => return Some(out),
            _ => {}
        }
    }
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
    let mut reader = reader(xml);
    let rest = |reader: &Reader<&[u8]>| xml.get(usize::try_from(reader.buffer_position()).ok()?..);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if tag.name().as_ref() == name.as_bytes() => {
                let inner = rest(&reader)?;
                let span = reader.read_to_end(tag.name()).ok()?;
                return Some((inner.get(..(span.end - span.start) as usize)?, rest(&reader)?));
            }
            Event::Empty(tag) if tag.name().as_ref() == name.as_bytes() => return Some(("", rest(&reader)?)),
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn reader(xml: &str) -> Reader<&[u8]> {
    let mut reader = Reader::from_str(xml);
    // servers forget to escape it in what they say to people
    reader.config_mut().allow_dangling_amp = true;
    reader
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
        assert_eq!(text("<L a='>'><!-- <K>no</K> --><K><![CDATA[a<b]]>&lt;</K></L>", "K").unwrap(), "a<b<");
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

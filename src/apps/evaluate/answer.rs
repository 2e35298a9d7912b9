//! The number that a generated answer ends in, found and compared as the evaluation harness does for GSM8K.

/// The number after the first `#### ` that one follows: the regular expression `#### (\-?[0-9\.\,]+)`.
pub fn strict(text: &str) -> Option<&str> {
    text.match_indices("#### ").find_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let digits = &rest[usize::from(rest.starts_with('-'))..];
        let end = digits.find(|c: char| !matches!(c, '0'..='9' | '.' | ',')).unwrap_or(digits.len());
        (end > 0).then(|| &rest[..rest.len() - digits.len() + end])
    })
}

/// The last number anywhere: the last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
pub fn flexible(text: &str) -> Option<&str> {
    let is_part = |c: char| matches!(c, '$' | '0'..='9' | '.' | ',');
    let (mut last, mut at) = (None, 0);
    while let Some(begin) = text[at..].find(is_part).map(|begin| at + begin) {
        let end = text[begin..].find(|c| !is_part(c)).map_or(text.len(), |end| begin + end);
        let signed = if text[at..begin].ends_with('-') { begin - 1 } else { begin };
        if end - begin > 1 || text[begin..end].parse::<u8>().is_ok() {
            last = Some(&text[signed..end]);
        }
        at = end;
    }
    last
}

/// Whether an answer that was found is the one that `reference` ends in. Everything up to the last `#### `,
/// commas, dollar signs and a full stop at the end do not count.
pub fn same(found: &str, reference: &str) -> bool {
    let bare = |text: &str| {
        let text = text.replace([',', '$'], "");
        let text = text.rsplit("#### ").next().unwrap_or_default();
        // Python's `$` matches before a line feed at the end too.
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        (text.strip_suffix('.').unwrap_or(text).to_owned() + end).to_lowercase()
    };
    bare(found.trim()) == bare(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by tests/fixtures/quality/answers.py with the harness's own filters.
    #[test]
    fn numbers_are_found_as_the_harness_finds_them() {
        let golden = include_str!("../../../tests/fixtures/quality/answers.json");
        let golden: Vec<serde_json::Value> = serde_json::from_str(golden).unwrap();
        assert!(golden.len() > 200);
        for case in golden {
            let text = case["text"].as_str().unwrap();
            assert_eq!(strict(text), case["strict"].as_str(), "{text:?}");
            assert_eq!(flexible(text), case["flexible"].as_str(), "{text:?}");
            let found = flexible(text).unwrap_or("[invalid]");
            let reference = case["reference"].as_str().unwrap();
            assert_eq!(same(found, reference), case["same"].as_bool().unwrap(), "{text:?}, {reference:?}");
        }
    }
}

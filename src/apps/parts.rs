//! Cutting a long text into parts that fit.

use crate::Result;

/// Ways to cut, coarse to fine: each of the last is a token or a few.
const CUTS: [fn(&str) -> Vec<&str>; 4] = [
    |text| text.split_inclusive("\n\n").collect(),
    sentences,
    |text| text.split_inclusive(char::is_whitespace).collect(),
    |text| text.split_inclusive(|_| true).collect(),
];

/// Cuts a text into parts of at most `room` tokens, as `tokens` counts them, at the ends of
/// paragraphs or else sentences; only what is longer than an eighth of the room is cut between words,
/// and words only then. Each part begins with the end of the one before, up to an eighth of the room.
///
/// # Errors
/// Those of `tokens`.
pub fn parts<'a>(text: &'a str, room: usize, tokens: &dyn Fn(&str) -> Result<usize>) -> Result<Vec<&'a str>> {
    let overlap = room / 8;
    let mut units = Vec::new();
    cut(text, &CUTS, overlap, tokens, &mut units)?;
    let mut parts = Vec::new();
    let mut first = 0;
    while first < units.len() {
        let mut size = 0;
        let fits = |(_, count): &&(&str, usize)| {
            size += count;
            size <= room
        };
        let end = first + units[first..].iter().take_while(fits).count().max(1);
        parts.push(joined(text, &units[first..end]));
        if end == units.len() {
            break;
        }
        let mut repeated = 0;
        let repeats = |(_, count): &&(&str, usize)| {
            repeated += count;
            repeated <= overlap
        };
        first = end - units[first + 1..end].iter().rev().take_while(repeats).count();
    }
    Ok(parts)
}

/// The stretch of `text` that neighbouring units cover.
fn joined<'a>(text: &'a str, units: &[(&'a str, usize)]) -> &'a str {
    let offset = |unit: &str| unit.as_ptr() as usize - text.as_ptr() as usize;
    let (first, last) = (units[0].0, units[units.len() - 1].0);
    text[offset(first)..offset(last) + last.len()].trim()
}

/// Cuts `text` into units of at most `most` tokens, as coarse as possible.
fn cut<'a>(
    text: &'a str,
    cuts: &[fn(&str) -> Vec<&str>],
    most: usize,
    tokens: &dyn Fn(&str) -> Result<usize>,
    units: &mut Vec<(&'a str, usize)>,
) -> Result<()> {
    let Some((coarsest, finer)) = cuts.split_first() else { return Ok(()) };
    for unit in coarsest(text) {
        let count = tokens(unit)?;
        if count <= most || finer.is_empty() {
            units.push((unit, count));
        } else {
            cut(unit, finer, most, tokens, units)?;
        }
    }
    Ok(())
}

/// Sentences with the white space behind them; a line's end is a sentence's end.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        let ended = || {
            text[start..at].trim_end_matches(['"', '\'', ')', '”', '’', '»']).ends_with(['.', '!', '?', '…'])
        };
        if matches!(c, '\n' | '。' | '！' | '？') || c.is_whitespace() && ended() {
            let end = at + c.len_utf8();
            sentences.push(&text[start..end]);
            start = end;
        }
    }
    sentences.push(&text[start..]);
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

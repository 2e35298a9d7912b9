//! Task files: JSON Lines in the layouts in which the data sets are published. Nothing in them is trusted.
//!
//! Prompts are those of the language model evaluation harness (github.com/EleutherAI/lm-evaluation-harness,
//! 0.4), so that scores compare with published ones.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result};

/// A data set's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `ctx_a`, `ctx_b`, `activity_label`, `endings`, `label`.
    HellaSwag,
    /// `question`, `choices` of `text` and `label`, `answerKey`; or with `stem` and `choices` in the question.
    Arc,
    /// `question`, `choices`, `answer` as a number from 0 or a letter, `subject`.
    Mmlu,
    /// `sentence` with a gap `_`, `option1`, `option2`, `answer`.
    WinoGrande,
    /// `question`, `answer` that ends in `#### ` and a number.
    Gsm8k,
}

/// One of the answers to choose from: how likely is `continuation` after `context`?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The prompt.
    pub context: String,
    /// What is scored, with the space before it.
    pub continuation: String,
    /// Characters of the choice as the data set has it, by which its likelihood is normalised.
    pub length: usize,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// To choose; the right one by its number.
    Choose(Vec<Choice>, usize),
    /// To go on after a prompt; the text of the right answer.
    Generate(String, String),
}

/// One line of a task file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number in the file, from 1.
    pub line: usize,
    /// MMLU's subject, otherwise empty.
    pub subject: String,
    /// What is asked.
    pub ask: Ask,
}

/// A task file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The layout of all its lines.
    pub layout: Layout,
    /// Its lines, those without content left out; at least one.
    pub items: Vec<Item>,
}

impl Task {
    /// Parses a task file.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`], naming the line, for what is not of one of the layouts, or not of that of the
    /// first line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut task: Option<Self> = None;
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line_number = index + 1;
            let parsed = Layout::parse(line, line_number);
            let (layout, item) = parsed.map_err(|error| error.within(format_args!("line {line_number}")))?;
            let task = task.get_or_insert_with(|| Self { layout, items: Vec::new() });
            if task.layout != layout {
                let (expected, found) = (format!("{} as before", task.layout.name()), layout.name());
                let subject = format!("line {line_number}");
                return Err(Error::expected(ErrorKind::Argument, subject, expected, found));
            }
            task.items.push(item);
        }
        task.ok_or_else(|| Error::expected(ErrorKind::Argument, "task", "at least one line", "none"))
    }
}

fn wrong(key: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::expected(ErrorKind::Argument, key, expected, found)
}

#[derive(Deserialize)]
struct HellaSwag {
    activity_label: String,
    ctx_a: String,
    ctx_b: String,
    endings: Vec<String>,
    label: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Arc {
    Flat {
        question: String,
        choices: ArcChoices,
        #[serde(rename = "answerKey")]
        answer: String,
    },
    Nested {
        question: ArcQuestion,
        #[serde(rename = "answerKey")]
        answer: String,
    },
}

#[derive(Deserialize)]
struct ArcChoices {
    text: Vec<String>,
    label: Vec<String>,
}

#[derive(Deserialize)]
struct ArcQuestion {
    stem: String,
    choices: Vec<ArcChoice>,
}

#[derive(Deserialize)]
struct ArcChoice {
    text: String,
    label: String,
}

#[derive(Deserialize)]
struct Mmlu {
    question: String,
    choices: Vec<String>,
    answer: Value,
    #[serde(default)]
    subject: String,
}

#[derive(Deserialize)]
struct WinoGrande {
    sentence: String,
    option1: String,
    option2: String,
    answer: Value,
}

#[derive(Deserialize)]
struct Gsm8k {
    question: String,
    answer: String,
}

impl Layout {
    /// As the data set is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::HellaSwag => "HellaSwag",
            Self::Arc => "ARC",
            Self::Mmlu => "MMLU",
            Self::WinoGrande => "WinoGrande",
            Self::Gsm8k => "GSM8K",
        }
    }

    /// The two measures of an answer.
    pub fn measures(self) -> [&'static str; 2] {
        match self {
            Self::Gsm8k => ["strict_match", "flexible_extract"],
            _ => ["acc", "acc_norm"],
        }
    }

    /// What comes before all examples of a subject.
    pub fn description(self, subject: &str) -> String {
        match self {
            Self::Mmlu if !subject.is_empty() => {
                let subject = subject.replace('_', " ");
                format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
            }
            _ => String::new(),
        }
    }

    /// The layout that has these keys.
    fn of(object: &Map<String, Value>) -> Result<Self> {
        let has = |key: &str| object.contains_key(key);
        match () {
            () if has("endings") => Ok(Self::HellaSwag),
            () if has("option1") => Ok(Self::WinoGrande),
            () if has("answerKey") => Ok(Self::Arc),
            () if has("choices") => Ok(Self::Mmlu),
            () if has("question") && has("answer") => Ok(Self::Gsm8k),
            () => {
                let found: Vec<String> =
                    object.keys().take(8).map(|key| key.chars().take(20).collect()).collect();
                Err(wrong("keys", "those of HellaSwag, ARC, MMLU, WinoGrande or GSM8K", found.join(", ")))
            }
        }
    }

    fn parse(text: &str, line: usize) -> Result<(Self, Item)> {
        let object: Map<String, Value> = parsed(serde_json::from_str(text))?;
        let layout = Self::of(&object)?;
        let value = Value::Object(object);
        let mut subject = String::new();
        let ask = match layout {
            Self::HellaSwag => hellaswag(&read(layout, value)?)?,
            Self::Arc => arc(read(layout, value)?)?,
            Self::Mmlu => {
                let mut row: Mmlu = read(layout, value)?;
                subject = std::mem::take(&mut row.subject);
                mmlu(&row)?
            }
            Self::WinoGrande => winogrande(&read(layout, value)?)?,
            Self::Gsm8k => {
                let Gsm8k { question, answer } = read(layout, value)?;
                Ask::Generate(question_prompt(&question), answer)
            }
        };
        if let Ask::Choose(choices, right) = &ask {
            if choices.len() < 2 || choices.iter().any(|choice| choice.continuation.trim().is_empty()) {
                return Err(wrong("choices", "two or more, none empty", choices.len()));
            }
            if *right >= choices.len() {
                return Err(wrong("answer", format_args!("one of {} choices", choices.len()), right + 1));
            }
        }
        Ok((layout, Item { line, subject, ask }))
    }
}

fn parsed<T>(result: serde_json::Result<T>) -> Result<T> {
    result.map_err(|error| Error::new(ErrorKind::Argument, "JSON", &error).because(error))
}

fn read<T: DeserializeOwned>(layout: Layout, value: Value) -> Result<T> {
    parsed(serde_json::from_value(value)).map_err(|error| error.within(layout.name()))
}

/// A choice's number, which the data sets write as a number or in quotes.
fn number(key: &str, value: &Value) -> Result<usize> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.map(|number| number as usize).ok_or_else(|| wrong(key, "the number of a choice", value))
}

fn question_prompt(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

fn choices(context: &str, texts: &[String]) -> Vec<Choice> {
    let choice = |text: &String| Choice {
        context: context.to_owned(),
        continuation: format!(" {text}"),
        length: text.chars().count(),
    };
    texts.iter().map(choice).collect()
}

fn hellaswag(row: &HellaSwag) -> Result<Ask> {
    let context = format!("{}: {} {}", row.activity_label, row.ctx_a, capitalized(&row.ctx_b));
    let endings: Vec<_> = row.endings.iter().map(|ending| without_marks(ending)).collect();
    Ok(Ask::Choose(choices(&without_marks(&context), &endings), number("label", &row.label)?))
}

/// The first letter large, all others small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.as_str().to_lowercase().chars()).collect()
}

/// Without the marks in brackets that WikiHow's texts have.
fn without_marks(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let (mut clean, mut rest) = (String::new(), text.as_str());
    while let Some(open) = rest.find('[') {
        let mark = rest[open..].find([']', '\n']).filter(|end| rest[open + end..].starts_with(']'));
        clean += &rest[..open + usize::from(mark.is_none())];
        rest = &rest[open + mark.unwrap_or(0) + 1..];
    }
    (clean + rest).replace("  ", " ")
}

fn arc(row: Arc) -> Result<Ask> {
    let (question, texts, labels, answer) = match row {
        Arc::Flat { question, choices, answer } => (question, choices.text, choices.label, answer),
        Arc::Nested { question: ArcQuestion { stem, choices }, answer } => {
            let (texts, labels) = choices.into_iter().map(|choice| (choice.text, choice.label)).unzip();
            (stem, texts, labels, answer)
        }
    };
    if texts.len() != labels.len() {
        return Err(wrong("choices", format_args!("{} labels", texts.len()), labels.len()));
    }
    let right = labels.iter().position(|label| *label == answer);
    let right =
        right.ok_or_else(|| wrong("answerKey", "the label of a choice", format_args!("`{answer}`")))?;
    Ok(Ask::Choose(choices(&question_prompt(&question), &texts), right))
}

fn mmlu(row: &Mmlu) -> Result<Ask> {
    let letters: Vec<_> = ('A'..='Z').map(String::from).take(row.choices.len()).collect();
    if letters.len() < row.choices.len() {
        return Err(wrong("choices", "at most 26", row.choices.len()));
    }
    let mut prompt = format!("{}\n", row.question.trim());
    for (letter, choice) in letters.iter().zip(&row.choices) {
        prompt += &format!("{letter}. {choice}\n");
    }
    let letter = row.answer.as_str().and_then(|answer| letters.iter().position(|letter| letter == answer));
    let right = letter.map_or_else(|| number("answer", &row.answer), Ok)?;
    Ok(Ask::Choose(choices(&(prompt + "Answer:"), &letters), right))
}

fn winogrande(row: &WinoGrande) -> Result<Ask> {
    let gap = row.sentence.split_once('_');
    let (before, after) = gap.ok_or_else(|| wrong("sentence", "a gap `_`", "none"))?;
    let choice = |option: &String| {
        let context = format!("{before}{option}");
        Choice { length: context.chars().count(), context, continuation: format!(" {}", after.trim()) }
    };
    let right = number("answer", &row.answer)?.checked_sub(1);
    let right = right.ok_or_else(|| wrong("answer", "1 or 2", "0"))?;
    Ok(Ask::Choose([&row.option1, &row.option2].map(choice).into(), right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned() {
        assert_eq!(capitalized("on the way SHE"), "On the way she");
        assert_eq!(capitalized(""), "");
        for (text, clean) in [
            (" a [step] b [title] c", "a b. c"),
            ("[header] x", " x"),
            ("open [ and\n] not", "open [ and\n] not"),
            ("a [b [c] d]", "a d]"),
            ("a [", "a ["),
        ] {
            assert_eq!(without_marks(text), clean);
        }
    }
}

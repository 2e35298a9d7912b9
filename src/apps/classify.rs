//! Labels by likelihood.

use std::{collections::HashSet, sync::Arc};

use super::{Job, PromptFormat, PromptTemplate, Variables, prompts::common_beginning};
use crate::{
    Error, ErrorKind, Result,
    generate::{Engine, Session},
    reference::log_sum_exp,
};

/// How well a label fits a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The label.
    pub label: String,
    /// Its share: the softmax of all labels' scores.
    pub probability: f32,
    /// Mean log-probability of the label's tokens t₁ … tₙ, 1/n · Σ log p(tᵢ | prompt, t₁ … tᵢ₋₁); when
    /// calibrated, minus the same after an empty text.
    pub score: f32,
}

/// Chooses among labels by how likely the model is to answer with each of them.
///
/// The prompt is computed once and every label is scored on a fork of it; what a prompt has in common
/// with the one before is not computed again.
pub struct Classifier {
    engine: Arc<Engine>,
    template: PromptTemplate,
    labels: Vec<String>,
    session: Session,
    /// Scores after an empty text.
    baseline: Option<Vec<f32>>,
}

impl Classifier {
    /// A classifier that asks with `template`, or else with our own.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] without labels, and for one that is empty or there twice;
    /// [`ErrorKind::Tokenizer`] when the model has no tokenizer.
    pub fn new(engine: Arc<Engine>, labels: Vec<String>, template: Option<PromptTemplate>) -> Result<Self> {
        let refuse = |found| Error::expected(ErrorKind::Argument, "labels", "different words", found);
        let mut known = HashSet::new();
        if labels.is_empty() {
            return Err(refuse("none".into()));
        }
        if let Some(label) =
            labels.iter().find(|label| label.trim().is_empty() || !known.insert(label.trim()))
        {
            return Err(refuse(format!("`{label}`")));
        }
        let own = PromptFormat::of(&engine)?.template(Job::Classify);
        let session = engine.session();
        Ok(Self { template: template.unwrap_or(own), labels, session, engine, baseline: None })
    }

    /// From now on scores are relative to those after an empty text, which removes the model's
    /// preference for some labels whatever the text (contextual calibration: Zhao et al. 2021,
    /// arXiv:2102.09690).
    ///
    /// # Errors
    /// As [`classify`](Self::classify).
    pub async fn calibrate(&mut self) -> Result<()> {
        self.baseline = Some(self.mean_logprobs("").await?);
        Ok(())
    }

    /// The labels with their probabilities, likeliest first.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a text that is longer than the context; as [`Engine::score`].
    pub async fn classify(&mut self, text: &str) -> Result<Vec<Score>> {
        let mut scores = self.mean_logprobs(text).await?;
        if let Some(baseline) = &self.baseline {
            scores.iter_mut().zip(baseline).for_each(|(score, baseline)| *score -= baseline);
        }
        let total = log_sum_exp(&scores, 1.0);
        let score = |(label, score): (&String, f32)| Score {
            label: label.clone(),
            probability: (f64::from(score) - total).exp() as f32,
            score,
        };
        let mut labels: Vec<_> = self.labels.iter().zip(scores).map(score).collect();
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(labels)
    }

    /// Mean log-probability of each label's tokens.
    async fn mean_logprobs(&mut self, text: &str) -> Result<Vec<f32>> {
        let format = PromptFormat::of(&self.engine)?;
        let request =
            self.template.render(&Variables { text, labels: &self.labels, ..Default::default() })?;
        let prompt = format.encode(&request)?;
        let answered = self.labels.iter().map(|label| format.encode_answered(&request, label.trim()));
        let answered = answered.collect::<Result<Vec<_>>>()?;
        let longest = answered.iter().map(Vec::len).max().unwrap_or(0);
        if longest > self.engine.context() {
            let expected =
                format!("at most the context's {} tokens with prompt and label", self.engine.context());
            return Err(Error::expected(ErrorKind::Argument, "text", expected, longest));
        }
        // A label may merge with the prompt's last characters: what follows the part common to all counts.
        let shared = answered.iter().map(|ids| common_beginning(ids, &prompt)).min().unwrap_or(0);
        let answers: Vec<_> = answered.iter().map(|ids| ids[shared..].to_vec()).collect();
        if let Some(at) = answers.iter().position(Vec::is_empty) {
            let message = format!("the chat template leaves nothing of the label `{}`", self.labels[at]);
            return Err(Error::new(ErrorKind::Template, "labels", message));
        }
        self.session.reset_to(&prompt[..shared])?;
        let scores = self.engine.score(&mut self.session, &answers).await?;
        Ok(scores.iter().map(|logprobs| logprobs.iter().sum::<f32>() / logprobs.len() as f32).collect())
    }
}

//! What an engine has on its device: loaded once, and once more whenever the device is lost.
//!
//! A session holds its tokens, so that nothing is lost with the device but time: its cache is found to be
//! of a model that is no more, and all tokens are computed anew.

use std::sync::{Arc, PoisonError};

use futures::lock::{MappedMutexGuard, MutexGuard};

use super::{Engine, ModelSource, StepCounts, proposer::StepCosts, sampling::Sampling};
use crate::{
    ErrorKind, Result,
    checkpoint::Checkpoint,
    gpu::Gpu,
    model::{
        Adapter, AdapterSet, AdapterSource, Model, ModelConfig, ModelOptions, Progress, Sequence,
        WeightFormats, Weights, check,
    },
};

/// Losses of the device that one operation outlives: what kills it each time will do so again.
pub(super) const LOSSES: usize = 2;

/// A model on a device.
pub(super) struct State {
    pub gpu: Arc<Gpu>,
    pub model: Model,
    pub sampling: Sampling,
    pub costs: StepCosts,
    pub counts: StepCounts,
}

/// All that decides what is loaded.
pub(super) struct Plan {
    pub source: ModelSource,
    pub adapters: Vec<AdapterSource>,
    pub config: ModelConfig,
    pub formats: WeightFormats,
    pub options: ModelOptions,
}

/// What of the state is to be had without waiting for the model.
pub(super) struct Current {
    pub gpu: Arc<Gpu>,
    /// A sequence without tokens.
    pub empty: Sequence,
}

impl Plan {
    /// The checkpoint, unless the model is synthetic.
    pub fn open(source: &ModelSource, config: &ModelConfig) -> Result<Option<Checkpoint>> {
        let checkpoint = source.checkpoint()?;
        checkpoint.iter().try_for_each(|checkpoint| check(checkpoint, config))?;
        Ok(checkpoint)
    }

    /// Fills the device.
    pub fn load(
        &self,
        gpu: Arc<Gpu>,
        checkpoint: Option<&Checkpoint>,
        progress: Progress<'_>,
    ) -> Result<State> {
        let weights = Weights::allocate(&gpu, &self.config, &self.formats)?;
        let mut model = Model::new(&gpu, self.config.clone(), weights, self.options)?;
        let open = |source| Adapter::open(source, &self.config);
        let adapters = self.adapters.iter().map(open).collect::<Result<Vec<_>>>()?;
        model.set_adapters(&gpu, &adapters)?;
        model.fill(&gpu, |weights| match checkpoint {
            None => weights.fill_random(&gpu, 0),
            Some(checkpoint) => weights.fill(&gpu, checkpoint, &self.config, progress),
        })?;
        let sampling = Sampling::new(&gpu, &model)?;
        let (costs, counts) = (StepCosts::default(), StepCounts::default());
        Ok(State { gpu, model, sampling, costs, counts })
    }
}

impl Current {
    pub fn of(state: &State) -> Self {
        Self { gpu: state.gpu.clone(), empty: state.model.sequence() }
    }
}

impl Engine {
    /// The device, and the model on it for as long as the guard lives. A device known to be lost is opened
    /// again, and the model loaded again.
    ///
    /// # Errors
    /// As [`Gpu::open`] and [`Engine::load`] when that fails; the next call tries again.
    pub(super) async fn state(&self) -> Result<MappedMutexGuard<'_, Option<State>, State>> {
        let mut state = self.state.lock().await;
        if state.as_ref().is_none_or(|state| state.gpu.is_lost()) {
            let lost = self.gpu();
            tracing::warn!("{} was lost: opening it and loading the model again", lost.description().name);
            // Frees what the lost device may still hold.
            let kept = state.take().map(|lost| (lost.costs, lost.counts));
            let (costs, counts) = kept.unwrap_or_default();
            let gpu = Arc::new(lost.reopen().await?);
            let checkpoint = Plan::open(&self.plan.source, &self.plan.config)?;
            let loaded = self.plan.load(gpu, checkpoint.as_ref(), &mut |_, _| {})?;
            *self.current() = Current::of(&loaded);
            *state = Some(State { costs, counts, ..loaded });
        }
        Ok(MutexGuard::map(state, |state| state.as_mut().expect("loaded above")))
    }

    /// Runs `work`, from the beginning again when the device is lost meanwhile. It takes the model by
    /// [`Engine::state`], and leaves sessions as they were when it fails.
    ///
    /// # Errors
    /// As `work`, and as [`Engine::state`].
    pub(super) async fn persist<T>(&self, mut work: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let mut losses = 0;
        loop {
            match work().await {
                Err(error) if error.kind() == ErrorKind::DeviceLost && losses < LOSSES => losses += 1,
                result => return result,
            }
        }
    }

    /// A sequence without tokens, whose tokens are computed with `adapters`.
    pub(super) fn empty(&self, adapters: AdapterSet) -> Sequence {
        self.current().empty.anew(adapters)
    }

    /// Empties a sequence whose keys and values were lost with their device.
    pub(super) fn renew(&self, sequence: &mut Sequence) {
        let current = self.current();
        if !sequence.shares_cache(&current.empty) {
            *sequence = current.empty.anew(sequence.adapters());
        }
    }

    pub(super) fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Which experts a row goes through: the router of a mixture (Jiang et al. 2024, arXiv:2401.04088, section 2.1).

use super::{Operation, Variant, count};
use crate::{
    Result,
    gpu::{Buffer, Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::Tensor,
    uniform,
};

uniform! {
    struct RouteParams { stride: u32, slot: u32 }
}

uniform! {
    /// One of the experts that a row has chosen.
    pub struct ExpertChoice {
        /// Where the row lies among the rows of all experts.
        place: u32,
        /// What the expert's output counts for in the row's.
        weight: f32,
    }
}

/// Most experts there can be: a word has a bit for each.
pub const MAX_EXPERTS: u32 = 32;

const WORKGROUP: u32 = 64;

/// What specialises the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteShape {
    /// Experts, at most [`MAX_EXPERTS`].
    pub experts: u32,
    /// Experts that a row goes through.
    pub chosen: u32,
}

/// The table of variants.
pub static ROUTE: Operation<RouteShape> = Operation {
    name: "route",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |shape| {
            KernelKey::new("route")
                .with::<RouteParams>()
                .with::<ExpertChoice>()
                .constant("EXPERTS", shape.experts)
                .constant("CHOSEN", shape.chosen)
                .constant("WORKGROUP", WORKGROUP)
        },
    }],
};

/// The experts of every row, and the pairs of row and expert ordered by expert, then by row.
#[derive(Debug)]
pub struct Routes {
    /// How many experts there are and how many a row goes through.
    pub shape: RouteShape,
    /// `[rows, chosen]`, the likeliest first.
    pub choices: Buffer,
    /// `array<u32>`, `[rows * chosen]`: the row of each pair.
    pub sources: Buffer,
    /// `array<u32>`, `[experts + 1]`: the first pair of each expert, and the number of all pairs.
    pub offsets: Buffer,
}

impl Routes {
    /// Room for at most `rows` rows.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn new(gpu: &Gpu, rows: u32, shape: RouteShape) -> Result<Self> {
        let pairs = u64::from(rows) * u64::from(shape.chosen);
        Ok(Self {
            shape,
            choices: gpu.allocate("expert choices", pairs * size_of::<ExpertChoice>() as u64)?,
            sources: gpu.allocate("expert sources", 4 * pairs)?,
            offsets: gpu.allocate("expert offsets", 4 * u64::from(shape.experts + 1))?,
        })
    }
}

/// Chooses for every row the experts with the largest logits, the first of equal ones. Their weights are the
/// softmax of these logits.
pub struct Route<'a> {
    /// `[rows, experts]`.
    pub logits: &'a Tensor,
    /// The counts of the replay as `u32`.
    pub counts: &'a Buffer,
    /// Result.
    pub routes: &'a Routes,
}

impl Route<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let Routes { shape, choices, sources, offsets } = self.routes;
        assert!(self.logits.cols == shape.experts && shape.experts <= MAX_EXPERTS, "shapes differ");
        assert!((1..=shape.experts).contains(&shape.chosen), "{shape:?}");
        let (_, kernel) = ROUTE.choose(gpu, shape)?;
        let slot = count::ROWS;
        let params = gpu.uniform(&RouteParams { stride: self.logits.stride(), slot: slot as u32 })?;
        let bindings = [
            ("params", &params),
            ("logits", &self.logits.buffer),
            ("counts", self.counts),
            ("choices", choices),
            ("sources", sources),
            ("offsets", offsets),
        ];
        let cost = Cost { fixed: 0.0, slot, each: 4.0 * f64::from(shape.experts) };
        recording.push(Step::new(gpu, "route", kernel, &bindings, [1; 3].map(Extent::Fixed), cost)?);
        Ok(())
    }
}

//! What a mixture of experts does beside its products: routes, and rows that follow them.

use super::{SelfTest, worst};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{EXPERT_SUM, ExpertChoice, ExpertSum, ROUTE, Route, RouteShape, Routes, weight::uniform_values},
    reference::{self, choose_experts, order_by_expert},
    tensor::Tensor,
};

/// More rows than the router has invocations.
const ROWS: usize = 150;
const COLS: usize = 300;

/// Logits of [`ROWS`] rows, and what they choose.
struct Case {
    shape: RouteShape,
    /// `[ROWS, experts]`.
    logits: Vec<f32>,
    /// `[ROWS, chosen]`.
    choices: Vec<(usize, f32)>,
    /// Numbers of the choices in the order of their experts.
    order: Vec<usize>,
}

impl Case {
    fn new(shape: RouteShape) -> Self {
        let (experts, chosen) = (shape.experts as usize, shape.chosen as usize);
        let mut logits = uniform_values(1, ROWS * experts, 4.0);
        // A row that likes all experts as much.
        logits[..experts].fill(0.5);
        let choices = choose_experts(&logits, experts, chosen);
        let order = order_by_expert(&choices);
        Self { shape, logits, choices, order }
    }

    fn sources(&self) -> Vec<u32> {
        self.order.iter().map(|choice| (choice / self.shape.chosen as usize) as u32).collect()
    }

    /// As the router leaves them.
    fn places(&self) -> Vec<u32> {
        let mut places = vec![0; self.order.len()];
        self.order.iter().zip(0..).for_each(|(choice, place)| places[*choice] = place);
        places
    }

    fn offsets(&self) -> Vec<u32> {
        let before = |expert| self.choices.iter().filter(|(other, _)| *other < expert as usize).count();
        (0..=self.shape.experts).map(|expert| before(expert) as u32).collect()
    }

    /// The routes, made on the host.
    fn routes(&self, gpu: &Gpu) -> Result<Routes> {
        let choices = self.places().into_iter().zip(&self.choices);
        let choices: Vec<_> =
            choices.map(|(place, (_, weight))| ExpertChoice { place, weight: *weight }).collect();
        Ok(Routes {
            shape: self.shape,
            choices: gpu.upload("choices", &choices)?,
            sources: gpu.upload("sources", &self.sources())?,
            offsets: gpu.upload("offsets", &self.offsets())?,
        })
    }
}

/// The router, and what depends on its routes; of a model with such `shape`.
pub async fn experts(test: &mut SelfTest<'_>, shape: RouteShape) -> Result<()> {
    let case = Case::new(shape);
    route(test, &case).await?;
    expert_sum(test, &case).await
}

async fn route(test: &mut SelfTest<'_>, case: &Case) -> Result<()> {
    let Case { shape, logits, .. } = case;
    let name = format!("{} of {} experts", shape.chosen, shape.experts);
    // WGSL promises exp(x) to 3 + 2 |x| units in the last place, and |x| is 14 at most.
    test.check(&ROUTE, shape, name, 5e-6, async |gpu| {
        let logits = Tensor::from_values(gpu, "logits", logits, shape.experts)?;
        let routes = Routes::new(gpu, ROWS as u32, *shape)?;
        let counts = gpu.upload("counts", &[ROWS as u32])?;
        let mut recording = Recording::default();
        Route { logits: &logits, counts: &counts, routes: &routes }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[ROWS as u64], None)?;
        let [sources, offsets]: [Vec<u32>; 2] =
            gpu.download(&[routes.sources, routes.offsets]).await?.try_into().expect("two");
        let found: Vec<ExpertChoice> = gpu.download(&[routes.choices]).await?.remove(0);
        let places: Vec<u32> = found.iter().map(|choice| choice.place).collect();
        if (places, sources, offsets) != (case.places(), case.sources(), case.offsets()) {
            return Ok(f32::MAX);
        }
        let found: Vec<f32> = found.iter().map(|choice| choice.weight).collect();
        let expected: Vec<f32> = case.choices.iter().map(|(_, weight)| *weight).collect();
        Ok(worst(&found, &expected, |index| expected[index]))
    })
    .await
}

async fn expert_sum(test: &mut SelfTest<'_>, case: &Case) -> Result<()> {
    let chosen = case.shape.chosen as usize;
    let values = uniform_values(3, case.choices.len() * COLS, 1.0);
    let places = case.places();
    let outputs: Vec<f32> =
        places.iter().flat_map(|place| &values[*place as usize * COLS..][..COLS]).copied().collect();
    let expected = reference::expert_sum(&case.choices, &outputs, chosen);
    // Weights add up to 1, and values are less than √3.
    test.check(&EXPERT_SUM, &(), format!("{chosen} experts"), 1e-6, async |gpu| {
        let x = Tensor::from_values(gpu, "x", &values, COLS as u32)?;
        let y = Tensor::zeros(gpu, "y", ROWS as u32, COLS as u32)?;
        let mut recording = Recording::default();
        ExpertSum { x: &x, routes: &case.routes(gpu)?, y: &y }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[ROWS as u64], None)?;
        Ok(worst(&y.download(gpu, y.rows).await?, &expected, |_| 1.0))
    })
    .await
}

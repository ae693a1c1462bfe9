//! Which layers to tie, learned on the way: Dynamic Layer Tying (Hay and Wolf, arXiv:2401.12819).
//!
//! Q-learning over tie maps. A state is a tie map: for every layer the one whose matrices it uses. An action is "layer i uses
//! layer j", j an independent layer before it, or i itself: independent. The reward is how far the loss has come below its
//! running mean since the decision, less a price for each unique layer. A network with one hidden layer holds the values of
//! all actions; decisions are greedy but for a share ε that falls over the run; every decision is learned from many times, by
//! replay.

use serde::{Deserialize, Serialize};
use tiepack::random::Random;
use tiepack::train::adam::{Adam, Betas};

const HIDDEN: usize = 128;
const RATE: f32 = 1e-3;
const BETAS: Betas = Betas { first: 0.9, second: 0.999 };
/// The discount of the value of the next state.
const DISCOUNT: f32 = 0.9;
/// Nats of loss are worth so many units of reward.
const GAIN: f64 = 4.0;
/// Decisions learned from after each one.
const REPLAYED: usize = 8;
/// The share of random decisions falls to this.
const LEAST: f64 = 0.05;
/// Part of the time of decisions over which it falls.
const FALL: f64 = 0.77;

/// A decision and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub step: usize,
    pub layer: usize,
    /// The layer that it uses from now on.
    pub source: usize,
    pub explored: bool,
    pub epsilon: f64,
    /// Tie map before and after.
    pub before: Vec<usize>,
    pub copies: Vec<usize>,
    /// `None`: it is not known yet.
    pub reward: Option<f64>,
}

/// The controller; all of it is in a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Controller {
    layers: usize,
    price: f64,
    random: Random,
    pub decisions: Vec<Decision>,
    /// First layer (L² inputs, one row each), its biases, second layer (L² outputs, one row each), its biases.
    #[serde(skip)]
    pub weights: Vec<f32>,
    #[serde(skip)]
    pub adam: Adam,
}

impl Controller {
    pub fn new(layers: usize, price: f64, seed: u64) -> Controller {
        let (n, mut random) = (layers * layers, Random::of(seed, 2));
        let mut uniform = |count: usize, inputs: usize| -> Vec<f32> {
            let bound = 1.0 / (inputs as f64).sqrt();
            (0..count).map(|_| (bound * (2.0 * random.uniform() - 1.0)) as f32).collect()
        };
        let weights = [uniform((n + 1) * HIDDEN, n), uniform(n * (HIDDEN + 1), HIDDEN)].concat();
        let adam = Adam::new(weights.len());
        Controller { layers, price, random, decisions: Vec::new(), weights, adam }
    }

    /// Decides about one layer, `part` of the way (0 to 1) through the time of decisions: the new tie map.
    pub fn decide(&mut self, step: usize, part: f64, before: &[usize]) -> Vec<usize> {
        let epsilon = (1.0 - part / FALL).max(LEAST);
        let layer = 1 + self.random.below(self.layers - 1);
        let allowed: Vec<usize> = (0..layer).filter(|j| before[*j] == *j).chain([layer]).collect();
        let explored = self.random.uniform() < epsilon;
        let source = match explored {
            true => allowed[self.random.below(allowed.len())],
            false => {
                let values = self.values(before);
                let value = |j: &usize| values[layer * self.layers + j];
                let best = allowed.iter().copied().max_by(|a, b| value(a).total_cmp(&value(b)));
                best.unwrap_or(layer)
            }
        };
        let mut copies = before.to_vec();
        copies[layer] = source;
        // Whoever used this layer follows it.
        copies.iter_mut().filter(|c| **c == layer).for_each(|c| *c = source);
        let before = before.to_vec();
        self.decisions.push(Decision {
            step,
            layer,
            source,
            explored,
            epsilon,
            before,
            copies: copies.clone(),
            reward: None,
        });
        copies
    }

    /// Learns what the last decision gained: nats of loss below the running mean.
    pub fn reward(&mut self, gain: f64) {
        let Some(last) = self.decisions.last_mut().filter(|last| last.reward.is_none()) else { return };
        let unique = last.copies.iter().enumerate().filter(|(layer, source)| layer == *source).count();
        last.reward = Some(GAIN * gain - self.price * unique as f64);
        for _ in 0..REPLAYED {
            let at = self.random.below(self.decisions.len());
            self.learn(at);
        }
    }

    fn hidden(&self, copies: &[usize]) -> Vec<f32> {
        let bias = self.layers * self.layers * HIDDEN;
        let mut hidden = self.weights[bias..bias + HIDDEN].to_vec();
        // Inputs are one-hot: a row for what each layer uses.
        for row in copies.iter().enumerate().map(|(layer, source)| layer * self.layers + source) {
            hidden.iter_mut().zip(&self.weights[row * HIDDEN..]).for_each(|(h, w)| *h += w);
        }
        hidden.iter_mut().for_each(|h| *h = h.max(0.0));
        hidden
    }

    /// Where row `action` of the second layer begins, and its bias.
    fn second(&self, action: usize) -> (usize, usize) {
        let n = self.layers * self.layers;
        ((n + 1 + action) * HIDDEN, (2 * n + 1) * HIDDEN + action)
    }

    fn value(&self, hidden: &[f32], action: usize) -> f32 {
        let (row, bias) = self.second(action);
        self.weights[bias] + hidden.iter().zip(&self.weights[row..]).map(|(h, w)| h * w).sum::<f32>()
    }

    /// Of every action (layer · L + source).
    fn values(&self, copies: &[usize]) -> Vec<f32> {
        let hidden = self.hidden(copies);
        (0..self.layers * self.layers).map(|action| self.value(&hidden, action)).collect()
    }

    /// One step towards reward plus discounted value of the best action after it.
    fn learn(&mut self, at: usize) {
        let Decision { layer, source, before, copies, reward, .. } = &self.decisions[at];
        let Some(reward) = reward else { return };
        let next = self.values(copies);
        let best = (1..self.layers).flat_map(|i| (0..=i).map(move |j| (i, j)));
        let best = best.map(|(i, j)| next[i * self.layers + j]).fold(f32::NEG_INFINITY, f32::max);
        let (hidden, action) = (self.hidden(before), layer * self.layers + source);
        let error = 2.0 * (self.value(&hidden, action) - (*reward as f32 + DISCOUNT * best));
        let (row, bias) = self.second(action);
        let mut gradient = vec![0f32; self.weights.len()];
        gradient[bias] = error;
        let inputs = before.iter().enumerate().map(|(layer, source)| layer * self.layers + source);
        let rows: Vec<usize> = inputs.chain([self.layers * self.layers]).collect();
        for (k, h) in hidden.iter().enumerate().filter(|(_, h)| **h > 0.0) {
            gradient[row + k] = error * h;
            rows.iter().for_each(|input| gradient[input * HIDDEN + k] = error * self.weights[row + k]);
        }
        self.adam.step(&mut self.weights, &gradient, RATE, BETAS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_brings_a_value_to_its_reward_and_what_follows() {
        let mut c = Controller::new(3, 0.1, 5);
        let copies = c.decide(0, 0.0, &[0, 1, 2]);
        c.reward(0.3);
        let Decision { layer, source, before, reward, .. } = c.decisions[0].clone();
        let target = |c: &Controller| {
            let next = c.values(&copies);
            let best = [3, 4, 6, 7, 8].map(|a| next[a]).into_iter().fold(f32::NEG_INFINITY, f32::max);
            reward.unwrap() as f32 + DISCOUNT * best
        };
        let error = |c: &Controller, y: f32| (c.values(&before)[layer * 3 + source] - y).powi(2);
        let y = target(&c);
        let start = error(&c, y);
        (0..1000).for_each(|_| c.learn(0));
        let y = target(&c);
        assert!(error(&c, y) < 1e-3 && error(&c, y) < start, "{} from {start}", error(&c, y));
    }

    #[test]
    fn a_high_price_ties_everything_and_maps_stay_sound() {
        let mut c = Controller::new(5, 1.0, 1);
        let mut copies: Vec<usize> = (0..5).collect();
        for step in 0..400 {
            copies = c.decide(step, step as f64 / 400.0, &copies);
            assert!(copies.iter().enumerate().all(|(i, s)| *s <= i && copies[*s] == *s), "{copies:?}");
            c.reward(0.0);
        }
        let unique = c.decisions[350..].iter().map(|d| d.copies.iter().enumerate().filter(|(i, s)| i == *s).count());
        assert!(unique.sum::<usize>() < 50 * 2, "{copies:?}");
    }
}

//! Losses of one network over a stream of tokens, each token scored once, in constant memory.
//!
//! As the challenge scores with a stride s and rows of S tokens: windows begin every s tokens; the first is scored as a
//! whole, the others from where the one before ended, so that every token but those of the first window has at least
//! S − s others before it; the last window ends with the text, and is shorter where s does not divide it. A stride of S
//! gives the disjoint rows. With documents the same holds for each document by itself: no window reaches beyond one.

use rayon::prelude::*;

use super::logits::{predict_inputs, rows_at_once};
use crate::error::Result;
use crate::ingest::{TokenBytes, TokenStream};
use crate::nets::{Net, Params};

/// Windows run between two looks at the order of things: enough for every thread, few enough to hold.
const BLOCK: usize = 256;

/// The scored positions, and the context before them.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// Tokens of a window, S.
    pub length: usize,
    /// Tokens between the beginnings of windows, 1 to S.
    pub stride: usize,
    /// The token that a document begins with; `None`: the text is one. The first token of the next document counts as
    /// the last that this one predicts, so that the same tokens are scored either way.
    pub documents: Option<u32>,
    /// Tokens to predict, from the second on.
    pub tokens: usize,
}

/// The measured loss of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Sum over all tokens.
    pub nats: f64,
    /// Bytes of text that the tokens stand for; 0 without a table.
    pub bytes: u64,
    /// Documents, whole or in part; 1 for a text that is not cut into any.
    pub documents: usize,
}

/// One forward pass: inputs `start..end` of the stream, of which those from `from` on are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass {
    start: usize,
    from: usize,
    end: usize,
}

impl Pass {
    /// Whether two passes can run as one batch.
    fn joins(&self, next: &Pass) -> bool {
        next.end - next.start == self.end - self.start
    }
}

/// Cuts a stream into passes.
struct Cutter {
    scoring: Scoring,
    /// Where the document begins.
    document: usize,
    /// Inputs before this one have been scored.
    scored: usize,
    documents: usize,
}

impl Cutter {
    fn new(scoring: Scoring) -> Cutter {
        let (length, stride) = (scoring.length, scoring.stride);
        assert!((1..=length).contains(&stride), "a stride of {stride} for rows of {length}");
        Cutter { scoring, document: 0, scored: 0, documents: 1 }
    }

    /// Tokens of the stream that [`Cutter::next`] needs, from its beginning.
    fn wanted(&self) -> usize {
        (self.scored + self.scoring.length).min(self.scoring.tokens) + 1
    }

    /// First token that is still of use.
    fn needed(&self) -> usize {
        self.scored.saturating_sub(self.scoring.length)
    }

    /// The next pass; `tokens` are those of the stream from `base` on.
    fn next(&mut self, tokens: &[u32], base: usize) -> Option<Pass> {
        let Scoring { length, stride, documents, tokens: total } = self.scoring;
        if self.scored == total {
            return None;
        }
        let begins = |at: usize| documents == Some(tokens[at - base]);
        if self.scored > self.document && begins(self.scored) {
            self.document = self.scored;
            self.documents += 1;
        }
        let from = self.scored;
        let start = if from == self.document { from } else { from + stride - length };
        let end = (start + length).min(total);
        // Nothing between the document's beginning and `from` begins another: the pass would have ended there.
        let end = (from.max(self.document + 1)..end).find(|at| begins(*at)).unwrap_or(end);
        self.scored = end;
        Some(Pass { start, from, end })
    }
}

/// Scores the tokens of `stream` that `scoring` asks for. `each` is given the nats of every token, in order, in parts;
/// `progress` is called with the tokens scored since the last call.
///
/// # Errors
/// The stream cannot be read, the forward pass fails, or those of `each`.
///
/// # Panics
/// `scoring` asks for more tokens than there are, or for a stride of 0 or beyond the length.
pub fn score(
    (net, params): (&dyn Net, &Params),
    stream: &mut TokenStream,
    scoring: Scoring,
    table: Option<&TokenBytes>,
    each: &mut dyn FnMut(&[f32]) -> Result<()>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Scored> {
    assert!(scoring.tokens < stream.tokens(), "{} tokens to predict of {}", scoring.tokens, stream.tokens());
    let mut cutter = Cutter::new(scoring);
    let (mut tokens, mut base) = (Vec::new(), 0);
    let mut scored = Scored { nats: 0.0, bytes: 0, documents: 1 };
    loop {
        let mut passes = Vec::with_capacity(BLOCK);
        while passes.len() < BLOCK {
            while base + tokens.len() < cutter.wanted() && stream.read(&mut tokens, 1 << 15)? > 0 {}
            let Some(pass) = cutter.next(&tokens, base) else { break };
            passes.push(pass);
        }
        if passes.is_empty() {
            scored.documents = cutter.documents;
            return Ok(scored);
        }
        let at_once = rows_at_once(params, scoring.length);
        let batches: Vec<&[Pass]> = passes.chunk_by(Pass::joins).flat_map(|run| run.chunks(at_once)).collect();
        let losses: Vec<Vec<Vec<f32>>> = batches
            .into_par_iter()
            .map(|batch| {
                let length = batch[0].end - batch[0].start;
                let inputs = batch.iter().map(|pass| &tokens[pass.start - base..pass.end - base]);
                let each = predict_inputs(net, params, inputs, length)?;
                let each =
                    each.losses(batch.iter().flat_map(|pass| &tokens[pass.start + 1 - base..=pass.end - base]))?;
                progress(batch.iter().map(|pass| (pass.end - pass.from) as u64).sum());
                let row = |(pass, losses): (&Pass, &[f32])| losses[pass.from - pass.start..].to_vec();
                Ok(batch.iter().zip(each.chunks_exact(length)).map(row).collect())
            })
            .collect::<Result<_>>()?;
        for (Pass { from, end, .. }, losses) in passes.iter().zip(losses.into_iter().flatten()) {
            scored.nats += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            if let Some(table) = table {
                let pairs = tokens[from - base..=end - base].windows(2);
                scored.bytes += pairs.map(|pair| u64::from(table.bytes_of(pair[0], pair[1]))).sum::<u64>();
            }
            each(&losses)?;
        }
        let used = cutter.needed().saturating_sub(base);
        tokens.drain(..used);
        base += used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(tokens: &[u32], length: usize, stride: usize, documents: Option<u32>) -> Vec<Pass> {
        let mut cutter = Cutter::new(Scoring { length, stride, documents, tokens: tokens.len() - 1 });
        let mut passes = Vec::new();
        loop {
            // No more than what was promised to be enough.
            let base = cutter.needed();
            let Some(pass) = cutter.next(&tokens[base..cutter.wanted()], base) else { return passes };
            passes.push(pass);
        }
    }

    fn pass(start: usize, from: usize, end: usize) -> Pass {
        Pass { start, from, end }
    }

    #[test]
    fn every_token_is_scored_once_with_enough_before_it() {
        for (tokens, length, stride) in [(12, 4, 4), (12, 4, 1), (12, 4, 3), (16, 8, 5), (4, 4, 2), (3, 4, 2)] {
            let mut next = 0;
            for Pass { start, from, end } in passes(&vec![7; tokens + 1], length, stride, None) {
                assert_eq!(from, next, "{tokens} {length} {stride}");
                assert!(start == 0 || from >= start + length - stride, "{tokens} {length} {stride}");
                assert!(start % stride == 0 && end - start <= length && end > from, "{tokens} {length} {stride}");
                next = end;
            }
            assert_eq!(next, tokens);
        }
    }

    #[test]
    fn a_stride_of_the_row_length_is_the_disjoint_evaluation() {
        assert_eq!(passes(&[7; 13], 4, 4, None), [pass(0, 0, 4), pass(4, 4, 8), pass(8, 8, 12)]);
    }

    #[test]
    fn no_window_reaches_beyond_a_document() {
        // Documents of 2, 1, 7 and 1 tokens; the text does not begin with the mark.
        let text = [5, 5, 1, 1, 5, 5, 5, 5, 5, 5, 1, 5];
        let cut = [pass(0, 0, 2), pass(2, 2, 3), pass(3, 3, 7), pass(5, 7, 9), pass(7, 9, 10), pass(10, 10, 11)];
        assert_eq!(passes(&text, 4, 2, Some(1)), cut);
        // The mark that ends the text is predicted by the document before it.
        assert_eq!(passes(&[1, 5, 5, 1], 8, 8, Some(1)), [pass(0, 0, 3)]);
    }
}

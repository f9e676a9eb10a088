use serde::{Deserialize, Serialize};

/// How well a model does on rows it was not fitted to, beside the simplest rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Scores {
    /// Of classes.
    Classification {
        /// Rows or windows.
        samples: usize,
        /// Share of right answers.
        accuracy: f64,
        /// Area under the receiver operating characteristic; of two classes only.
        auc: Option<f64>,
        /// Mean of -ln p of the true class.
        log_loss: f64,
        /// Share of right answers where the most frequent training class is always told.
        majority_accuracy: f64,
        /// Log loss of the training shares.
        majority_log_loss: f64,
    },
    /// Of numbers, over all outputs.
    Regression {
        /// Rows or windows.
        samples: usize,
        /// Root of the mean squared error.
        rmse: f64,
        /// Mean absolute error.
        mae: f64,
        /// 1 - squared error / squared distance from the mean of these samples.
        r2: f64,
        /// Error of the training mean.
        mean_rmse: f64,
        /// Error of the last known value (no change), where windows have it.
        last_rmse: Option<f64>,
    },
}

impl Scores {
    pub(super) fn classification(logits: &[f64], truth: &[usize], shares: &[f64]) -> Self {
        let classes = shares.len();
        let probabilities: Vec<Vec<f64>> = logits.chunks(classes).map(softmax).collect();
        let count = truth.len().max(1) as f64;
        let mean = |of: &dyn Fn(usize) -> f64| (0..truth.len()).map(of).sum::<f64>() / count;
        let majority = argmax(shares);
        let loss = |p: f64| -p.max(1e-15).ln();
        let positives: Vec<bool> = truth.iter().map(|class| *class == 1).collect();
        let margins: Vec<f64> = match classes {
            2 => logits.chunks(2).map(|pair| pair[1] - pair[0]).collect(),
            _ => Vec::new(),
        };
        Scores::Classification {
            samples: truth.len(),
            accuracy: mean(&|i| f64::from(u8::from(argmax(&probabilities[i]) == truth[i]))),
            auc: if classes == 2 {
                auc(&margins, &positives)
            } else {
                None
            },
            log_loss: mean(&|i| loss(probabilities[i][truth[i]])),
            majority_accuracy: mean(&|i| f64::from(u8::from(majority == truth[i]))),
            majority_log_loss: mean(&|i| loss(shares[truth[i]])),
        }
    }

    /// `means` are those of the training targets, one for each output; `last` the error of
    /// the last known value at each output.
    pub(super) fn regression(
        predicted: &[f64],
        truth: &[f64],
        means: &[f64],
        last: Option<&[f64]>,
    ) -> Self {
        let outputs = means.len();
        let count = truth.len().max(1) as f64;
        let rms = |errors: &mut dyn Iterator<Item = f64>| {
            (errors.map(|e| e * e).sum::<f64>() / count).sqrt()
        };
        let errors = || predicted.iter().zip(truth).map(|(p, t)| p - t);
        let own: Vec<f64> = (0..outputs)
            .map(|o| {
                let values = truth.iter().skip(o).step_by(outputs);
                values.sum::<f64>() / (count / outputs as f64)
            })
            .collect();
        let spread = rms(&mut truth.iter().enumerate().map(|(i, t)| t - own[i % outputs]));
        let rmse = rms(&mut errors());
        Scores::Regression {
            samples: truth.len() / outputs,
            rmse,
            mae: errors().map(f64::abs).sum::<f64>() / count,
            r2: 1.0 - (rmse / spread).powi(2),
            mean_rmse: rms(&mut truth
                .iter()
                .enumerate()
                .map(|(i, t)| t - means[i % outputs])),
            last_rmse: last.map(|last| rms(&mut last.iter().copied())),
        }
    }

    /// The scores by name, for tables.
    ///
    /// ```
    /// use saliency_models::train::Scores;
    /// let scores: Scores = serde_json::from_str(
    ///     r#"{"task": "regression", "samples": 9, "rmse": 1, "mae": 1, "r2": 0.5, "mean_rmse": 2, "last_rmse": null}"#,
    /// )?;
    /// assert_eq!(scores.named()[0], ("RMSE", 1.0));
    /// assert_eq!(scores.named().len(), 4);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Scores::Classification {
                accuracy,
                auc,
                log_loss,
                majority_accuracy,
                majority_log_loss,
                ..
            } => {
                let mut named = vec![("accuracy", accuracy)];
                named.extend(auc.map(|auc| ("AUC", auc)));
                named.extend([
                    ("log loss", log_loss),
                    ("accuracy of the majority class", majority_accuracy),
                    ("log loss of the class shares", majority_log_loss),
                ]);
                named
            }
            Scores::Regression {
                rmse,
                mae,
                r2,
                mean_rmse,
                last_rmse,
                ..
            } => {
                let mut named = vec![
                    ("RMSE", rmse),
                    ("MAE", mae),
                    ("R2", r2),
                    ("RMSE of the training mean", mean_rmse),
                ];
                named.extend(last_rmse.map(|last| ("RMSE of the last value", last)));
                named
            }
        }
    }

    /// Rows or windows that were scored.
    pub fn samples(&self) -> usize {
        match *self {
            Scores::Classification { samples, .. } | Scores::Regression { samples, .. } => samples,
        }
    }
}

/// The first of the largest values.
fn argmax(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|l| (l - most).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}

/// The chance that a positive row has a higher margin than a negative one, half for ties;
/// `None` where one of the kinds is missing.
///
/// ```
/// use saliency_models::train::auc;
/// assert_eq!(auc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), Some(0.75));
/// assert_eq!(auc(&[1.0, 1.0], &[false, true]), Some(0.5));
/// assert_eq!(auc(&[1.0], &[true]), None);
/// ```
pub fn auc(margins: &[f64], positive: &[bool]) -> Option<f64> {
    let positives = positive.iter().filter(|p| **p).count() as f64;
    let negatives = positive.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let mut order: Vec<usize> = (0..margins.len()).collect();
    order.sort_by(|a, b| margins[*a].total_cmp(&margins[*b]));
    let (mut ranks, mut start) = (0.0, 0);
    while start < order.len() {
        let tie = order[start..]
            .iter()
            .take_while(|i| margins[**i] == margins[order[start]]);
        let end = start + tie.count();
        let mean_rank = (start + 1 + end) as f64 / 2.0;
        let hits = order[start..end].iter().filter(|i| positive[**i]).count();
        ranks += mean_rank * hits as f64;
        start = end;
    }
    Some((ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn classification_by_hand() {
        let third = (2f64).ln();
        // Probabilities of class 1: 2/3, 1/3, 2/3.
        let logits = [0.0, third, third, 0.0, 0.0, third];
        let Scores::Classification {
            accuracy,
            auc,
            log_loss,
            majority_accuracy,
            majority_log_loss,
            samples,
        } = Scores::classification(&logits, &[1, 0, 0], &[0.75, 0.25])
        else {
            panic!("another task")
        };
        assert_eq!(samples, 3);
        assert!(close(accuracy, 2.0 / 3.0) && close(auc.unwrap(), 0.75));
        assert!(close(log_loss, (2.0 * 1.5f64.ln() + 3f64.ln()) / 3.0));
        assert!(close(majority_accuracy, 2.0 / 3.0));
        assert!(close(
            majority_log_loss,
            -(0.25f64.ln() + 2.0 * 0.75f64.ln()) / 3.0
        ));
    }

    #[test]
    fn regression_by_hand() {
        // Two samples with two outputs.
        let scores = Scores::regression(
            &[1.0, 0.0, 3.0, 2.0],
            &[0.0, 0.0, 4.0, 2.0],
            &[1.0, 1.0],
            None,
        );
        let Scores::Regression {
            samples,
            rmse,
            mae,
            r2,
            mean_rmse,
            last_rmse,
        } = scores
        else {
            panic!("another task")
        };
        assert_eq!((samples, last_rmse), (2, None));
        assert!(close(rmse, (2f64 / 4.0).sqrt()) && close(mae, 0.5));
        // Squared distances from the means 2 and 1 are 4, 1, 4, 1.
        assert!(close(r2, 1.0 - 2.0 / 10.0));
        assert!(close(mean_rmse, (12f64 / 4.0).sqrt()));
    }
}

//! Whether those who serve still do: each is asked, and has to answer.
//!
//! Nothing ticks by itself. Whoever wants to know (a watchdog) asks, and an idle process that nobody
//! asks about is not woken.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// A question, to be answered with nothing.
type Question = oneshot::Sender<()>;

/// The means to ask everyone who serves.
#[derive(Debug, Default)]
pub struct Pulse {
    hearts: Vec<(String, mpsc::UnboundedSender<Question>)>,
}

/// Answers for one runtime, among whose tasks it stands in line like any other.
#[derive(Debug)]
pub struct Heart(mpsc::UnboundedReceiver<Question>);

impl Pulse {
    /// One more who is asked, by the name that a log knows it by.
    pub fn heart(&mut self, name: impl Into<String>) -> Heart {
        let (ask, asked) = mpsc::unbounded_channel();
        self.hearts.push((name.into(), ask));
        Heart(asked)
    }

    /// Asks all, and names those that did not answer in time.
    pub async fn feel(&self, patience: Duration) -> Vec<&str> {
        let until = Instant::now() + patience;
        let asked: Vec<_> = self
            .hearts
            .iter()
            .map(|(name, heart)| {
                let (answer, answered) = oneshot::channel();
                // Whoever is gone drops the question.
                let _ = heart.send(answer);
                (name.as_str(), answered)
            })
            .collect();
        let mut silent = Vec::new();
        for (name, answered) in asked {
            if !matches!(timeout_at(until, answered).await, Ok(Ok(()))) {
                silent.push(name);
            }
        }
        silent
    }
}

impl Heart {
    /// Answers for as long as anybody may ask.
    pub async fn beat(mut self) {
        while let Some(question) = self.0.recv().await {
            // Whoever asked may have lost patience.
            let _ = question.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_answer_is_named() {
        let mut pulse = Pulse::default();
        let (lively, stuck, gone) = (pulse.heart("lively"), pulse.heart("stuck"), pulse.heart("gone"));
        let beating = tokio::spawn(lively.beat());
        drop(gone);
        assert_eq!(pulse.feel(Duration::from_secs(5)).await, ["stuck", "gone"]);
        tokio::spawn(stuck.beat());
        assert_eq!(pulse.feel(Duration::from_secs(5)).await, ["gone"]);
        beating.abort();
        assert_eq!(pulse.feel(Duration::from_secs(5)).await, ["lively", "gone"]);
    }
}

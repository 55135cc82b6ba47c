//! Answers that are nobody's idea of right, and all that there was.
//!
//! A body that parses nowhere, or a zip that is malformed on every mirror, goes through as it came, for go
//! has its own words for it; it is not kept where answers are looked for. It is kept apart, and told again
//! when no upstream answers at all: a build that met it before meets the same then.

use bytes::Bytes;

use super::Failure;
use super::answer::House;
use super::path::ModuleRequest;
use super::pools::Ground;
use super::store::Facts;
use crate::cache::{Draft, Verdict};

/// What is longer is not told again.
const MOST: usize = 16 << 20;

impl House {
    /// Keeps a small one apart.
    pub async fn keep_odd(&self, request: &ModuleRequest, ground: &Ground, odd: &Bytes) {
        let Some(key) = ground.odd_key(request).filter(|_| odd.len() <= MOST) else { return };
        if let Err(why) = self.store.put(&key, odd.clone()).await {
            tracing::debug!(%request, %why, "an odd answer is not kept");
        }
    }

    /// Keeps what was written apart.
    pub async fn keep_odd_draft(&self, request: &ModuleRequest, ground: &Ground, draft: &Draft) {
        if draft.written() > MOST as u64 {
            return;
        }
        let Ok(mut reader) = draft.reading() else { return };
        let read = tokio::task::spawn_blocking(move || {
            let mut odd = Vec::new();
            reader.read_to_end(&mut odd).map(|_| odd)
        });
        if let Ok(Ok(odd)) = read.await {
            self.keep_odd(request, ground, &odd.into()).await;
        }
    }

    /// In a failure's place, where nobody answered and an odd answer was had before: that.
    pub async fn replay_odd(
        &self,
        request: &ModuleRequest,
        ground: &Ground,
        mut draft: Draft,
        failure: Failure,
    ) -> Result<(Draft, Verdict), Failure> {
        if !failure.is_unanswered() {
            return Err(failure);
        }
        let Some(key) = ground.odd_key(request) else { return Err(failure) };
        let Some(odd) = self.store.small(&key, MOST).await else { return Err(failure) };
        tracing::debug!(%request, %failure, "told again as it came before");
        draft.restart();
        draft.write(odd).await?;
        Ok((draft, Verdict::PassOn { facts: Facts::new() }))
    }
}

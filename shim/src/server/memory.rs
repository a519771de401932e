//! Want of memory: that the kernel has killed something of a container for it.

use ferrun::cgroups::OomWatch;
use rustix::event::epoll::EventFlags;

use super::Server;
use crate::log;
use crate::poller::Source;

impl Server {
    /// Watches a container from now on, if its memory is counted.
    pub(super) fn watch_memory(&mut self, id: &str) {
        let Some(runtime) = self.containers.get(id).map(|held| held.runtime.clone()) else {
            return;
        };
        let watch = match runtime.group(id).map(|group| OomWatch::new(&group)) {
            Ok(Ok(watch)) => watch,
            Ok(Err(error)) => return log::debug(|| format!("{id}: {error:#}")),
            Err(error) => return log::debug(|| format!("{id}: {error}")),
        };
        let number = self.number();
        // A file has its event until somebody reads it by the same descriptor, which nobody does.
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::ET;
        if self.poller.add(&watch, Source::Memory(number), flags).is_ok() {
            self.watches.insert(number, (id.to_owned(), watch));
        }
    }

    /// Something has happened that may be a kill.
    pub(super) fn hear_memory(&mut self, number: u64) {
        if let Some((id, watch)) = self.watches.get_mut(&number)
            && watch.take() > 0
        {
            self.service.out_of_memory(id);
        }
    }

    /// Looks once more, before the end of a process of a container is told.
    pub(super) fn look_at_memory(&mut self, id: &str) {
        for number in self.watches_of(id) {
            self.hear_memory(number);
        }
    }

    /// Watches a container no longer.
    pub(super) fn forget_memory(&mut self, id: &str) {
        for number in self.watches_of(id) {
            if let Some((_, watch)) = self.watches.remove(&number) {
                self.poller.remove(&watch);
            }
        }
    }

    fn watches_of(&self, id: &str) -> Vec<u64> {
        let watches = self.watches.iter().filter(|(_, (of, _))| of == id);
        watches.map(|(number, _)| *number).collect()
    }
}

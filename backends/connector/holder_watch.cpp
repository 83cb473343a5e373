#include <dmaflow/holder_watch.hpp>

#include "socket.hpp"
#include "sys/sys.hpp"

#include <dmaflow/process_table.hpp>

#include <array>
#include <cerrno>
#include <deque>
#include <map>
#include <memory_resource>
#include <vector>

#include <poll.h>

namespace dmaflow::connector {

struct HolderWatch::Impl {
  /// A child that was not added by add() has no pidfd: events report its end.
  struct Holder {
    std::optional<Process> process;
    std::uint64_t start = 0;
  };
  using Kind = HolderEvent::Kind;

  static Result<std::unique_ptr<Impl>> create();
  Result<void> listen();
  Result<void> read();
  void see(const ProcessEvent& event);
  Result<void> mend(std::uint64_t lost);
  void look_for_children();
  void end(pid_t pid);

  Fd epoll;
  std::unique_ptr<ProcessEvents> events;
  std::optional<Error> why_no_events;
  ProcessTable table;
  // The memory of children that have ended is reused: no allocation unless there are more of them than ever before.
  std::pmr::unsynchronized_pool_resource pool;
  std::pmr::map<pid_t, Holder> holders{&pool};
  std::pmr::deque<HolderEvent> queue{&pool};
};

Result<std::unique_ptr<HolderWatch::Impl>> HolderWatch::Impl::create() {
  const int epoll = sys::epoll_create();
  if (epoll < 0) return std::unexpected(failure(epoll, "epoll_create1"));
  auto impl = std::make_unique<Impl>();
  impl->epoll = Fd::adopt(epoll);
  return impl;
}

Result<void> HolderWatch::Impl::listen() {
  const int added = sys::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, events->poll_fd(), EPOLLIN, 0);
  if (added < 0) return std::unexpected(failure(added, "epoll_ctl"));
  return table.resync(*events, Deadline::after(std::chrono::seconds(5)));
}

Result<std::unique_ptr<HolderWatch>> HolderWatch::create(const ProcessEventsOptions& options) {
  auto impl = Impl::create();
  if (!impl) return std::unexpected(impl.error());
  ProcessEventsOptions needed = options;
  needed.events = ProcessEventMask::fork | ProcessEventMask::exec | ProcessEventMask::exit;
  if (auto events = ProcessEvents::open(needed); events) {
    (*impl)->events = std::move(*events);
    if (auto listening = (*impl)->listen(); !listening) return std::unexpected(listening.error());
  } else {
    (*impl)->why_no_events = events.error();
  }
  return std::unique_ptr<HolderWatch>(new HolderWatch(std::move(*impl)));
}

Result<std::unique_ptr<HolderWatch>> HolderWatch::create_without_events() {
  auto impl = Impl::create();
  if (!impl) return std::unexpected(impl.error());
  return std::unique_ptr<HolderWatch>(new HolderWatch(std::move(*impl)));
}

HolderWatch::HolderWatch(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
HolderWatch::~HolderWatch() = default;

// --- The set ---------------------------------------------------------------------------------------------------------

Result<void> HolderWatch::add(ProcessId id) {
  auto process = Process::open(id);
  if (!process) return std::unexpected(process.error());
  Impl::Holder& holder = impl_->holders[id.pid];
  if (holder.process) return {};
  const int added = sys::epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, process->poll_fd(), EPOLLIN,
                                   static_cast<std::uint64_t>(id.pid));
  if (added < 0) {
    impl_->holders.erase(id.pid);
    return std::unexpected(failure(added, "epoll_ctl"));
  }
  holder.process = std::move(*process);
  holder.start = id.start;
  return {};
}

bool HolderWatch::remove(pid_t pid) noexcept { return impl_->holders.erase(pid) > 0; }
bool HolderWatch::contains(pid_t pid) const noexcept { return impl_->holders.contains(pid); }
std::size_t HolderWatch::size() const noexcept { return impl_->holders.size(); }

HolderWatch::Mode HolderWatch::mode() const noexcept {
  return impl_->events ? Mode::pidfds_and_events : Mode::pidfds_only;
}
const std::optional<Error>& HolderWatch::why_no_events() const noexcept { return impl_->why_no_events; }

// --- Events ----------------------------------------------------------------------------------------------------------

void HolderWatch::Impl::end(pid_t pid) {
  if (holders.erase(pid) > 0) queue.push_back({.kind = Kind::gone, .pid = pid});
}

void HolderWatch::Impl::see(const ProcessEvent& event) {
  using Change = ProcessTable::Change;
  const Change change = table.apply(event);
  if (const auto* fork = event.as<Fork>(); fork != nullptr && change == Change::began) {
    // The pid was reused: its previous process has ended.
    if (!holders.empty() && holders.contains(fork->child.pid)) {
      const Holder& old = holders[fork->child.pid];
      if (!old.process || old.process->has_exited()) end(fork->child.pid);
    }
    if (!holders.contains(fork->parent.tgid) || holders.contains(fork->child.pid)) return;
    holders.try_emplace(fork->child.pid);
    queue.push_back({.kind = Kind::forked, .pid = fork->parent.tgid, .child = fork->child.pid});
  } else if (const auto* exec = event.as<Exec>()) {
    if (holders.contains(exec->task.tgid)) queue.push_back({.kind = Kind::execed, .pid = exec->task.tgid});
  } else if (const auto* exit = event.as<Exit>(); exit != nullptr && change == Change::ended) {
    const auto holder = holders.find(exit->task.tgid);
    // Events of an earlier process with this pid may still be read after add(): the pidfd knows whether this one has
    // ended.
    if (holder == holders.end()) return;
    if (!holder->second.process || holder->second.process->has_exited()) end(exit->task.tgid);
  }
}

/// After a loss: compares what the table says now with what was known.
Result<void> HolderWatch::Impl::mend(std::uint64_t lost) {
  std::uint64_t more = 0;
  std::vector<ProcessEvent> taken;
  auto synced = table.resync(*events, Deadline::after(std::chrono::seconds(5)), [&](const ProcessEvent& event) {
    if (const auto* loss = event.as<Lost>()) more += loss->count;
    const auto* fork = event.as<Fork>();
    if (event.as<Exec>() != nullptr || (fork != nullptr && fork->is_process())) taken.push_back(event);
  });
  queue.push_back({.kind = Kind::lost, .lost = lost + more});
  // Forks and execs that were not lost, in their order; a child may have ended by now.
  for (const ProcessEvent& event : taken) {
    if (const auto* fork = event.as<Fork>()) {
      if (!holders.contains(fork->parent.tgid) || holders.contains(fork->child.pid)) continue;
      holders.try_emplace(fork->child.pid);
      queue.push_back({.kind = Kind::forked, .pid = fork->parent.tgid, .child = fork->child.pid});
    } else if (const auto* exec = event.as<Exec>(); holders.contains(exec->task.tgid)) {
      queue.push_back({.kind = Kind::execed, .pid = exec->task.tgid});
    }
  }
  look_for_children();
  std::vector<pid_t> gone;
  for (const auto& [pid, holder] : holders) {
    const bool is_gone = holder.process ? holder.process->has_exited() : !table.contains(pid);
    if (is_gone) gone.push_back(pid);
  }
  for (const pid_t pid : gone) end(pid);
  return synced;
}

void HolderWatch::Impl::look_for_children() {
  for (bool has_found = true; has_found;) {
    has_found = false;
    table.for_each([&](const ProcessTable::Entry& entry) {
      if (!holders.contains(entry.parent) || holders.contains(entry.id.pid)) return;
      holders.try_emplace(entry.id.pid);
      queue.push_back({.kind = Kind::forked, .pid = entry.parent, .child = entry.id.pid});
      has_found = true;
    });
  }
}

Result<void> HolderWatch::Impl::read() {
  // Events first: a child's fork is reported before its parent's end.
  while (events) {
    const auto event = events->take();
    if (!event) return std::unexpected(event.error());
    if (!*event) break;
    if (const auto* loss = (*event)->as<Lost>()) {
      if (auto mended = mend(loss->count); !mended) return mended;
    } else {
      see(**event);
    }
  }
  std::array<epoll_event, 64> ready;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel fills it
  const int count = sys::epoll_look(epoll.get(), ready);
  if (count < 0) return std::unexpected(failure(count, "epoll_wait"));
  for (int i = 0; i < count; ++i) {
    const auto pid = static_cast<pid_t>(ready[static_cast<std::size_t>(i)].data.u64);
    if (pid != 0) end(pid);
  }
  return {};
}

Result<std::optional<HolderEvent>> HolderWatch::take() {
  if (impl_->queue.empty()) {
    if (auto looked = impl_->read(); !looked) return std::unexpected(looked.error());
  }
  if (impl_->queue.empty()) return std::nullopt;
  const HolderEvent event = impl_->queue.front();
  impl_->queue.pop_front();
  return event;
}

int HolderWatch::poll_fd() const noexcept { return impl_->epoll.get(); }
short HolderWatch::poll_events() const noexcept { return POLLIN; }

Result<void> HolderWatch::dispatch(short /*revents*/) { return impl_->queue.empty() ? impl_->read() : Result<void>{}; }

}  // namespace dmaflow::connector

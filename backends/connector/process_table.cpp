#include <dmaflow/process_table.hpp>

#include "proc.hpp"
#include "socket.hpp"

#include <cerrno>
#include <utility>

namespace dmaflow::connector {

// --- Events ----------------------------------------------------------------------------------------------------------

ProcessTable::Change ProcessTable::apply(const ProcessEvent& event) {
  if (const auto* fork = event.as<Fork>()) {
    if (!fork->is_process()) {
      begin_thread(fork->child);
      return Change::none;
    }
    begin_process(fork->child.pid, fork->parent.tgid, 0);
    return Change::began;
  }
  if (const auto* exec = event.as<Exec>()) {
    keep_first_thread_only(exec->task.tgid);
    return Change::execed;
  }
  if (const auto* exit = event.as<Exit>()) return end_thread(exit->task) ? Change::ended : Change::none;
  return event.as<Lost>() != nullptr ? Change::lost : Change::none;
}

void ProcessTable::begin_process(pid_t pid, pid_t parent, std::uint64_t start) {
  if (const Slot* old = look_up(pid); old != nullptr) {
    // It was seen in /proc before its event was read, or the end of its predecessor was lost. A new process has one
    // thread; the events of any threads that it has gained since are still to come.
    if (start == 0 && old->tid == old->tgid) start = old->start;
    if (old->tid == old->tgid) {
      keep_first_thread_only(pid);
      erase(pid);
      --processes_;
    } else {
      end_thread({.pid = old->tid, .tgid = old->tgid});
    }
  }
  insert({.tid = pid, .tgid = pid, .parent = parent, .threads = 1, .start = start, .is_running = true});
  ++processes_;
}

void ProcessTable::begin_thread(Task task) {
  if (look_up(task.pid) != nullptr) return;
  Slot* process = look_up(task.tgid);
  if (process == nullptr || process->tid != process->tgid) return;
  ++process->threads;
  insert({.tid = task.pid, .tgid = task.tgid, .is_running = true});
}

bool ProcessTable::end_thread(Task task) noexcept {
  Slot* thread = look_up(task.pid);
  if (thread == nullptr || !thread->is_running || thread->tgid != task.tgid) return false;
  // When the end of the process itself is reported, it is a zombie, or gone.
  if (std::exchange(thread->may_end_late, false)) {
    const auto stat = read_stat(task.pid);
    if (stat && !stat->is_exiting) return false;
  }
  thread->is_running = false;
  if (task.pid != task.tgid) erase(task.pid);
  Slot* process = look_up(task.tgid);
  if (process == nullptr || --process->threads > 0) return false;
  erase(task.tgid);
  --processes_;
  return true;
}

void ProcessTable::keep_first_thread_only(pid_t tgid) {
  Slot* process = look_up(tgid);
  if (process == nullptr || process->tid != process->tgid) return;
  const bool has_others = process->threads > (process->is_running ? 1U : 0U);
  // A thread other than the first may have called execve(). It continues as soon as the first is a zombie, so either
  // event may come first: the exec's, or that of the first thread's end (exit_notify() is before
  // proc_exit_connector()). The number in the latter is not certain either: de_thread() exchanges the numbers of the
  // two meanwhile.
  if (has_others && process->is_running) process->may_end_late = true;
  process->threads = 1;
  process->is_running = true;
  if (!has_others) return;
  // Rare: execve() in a program with threads. Erasing moves slots, so the walk starts over.
  for (std::size_t i = 0; i < slots_.size();) {
    const Slot& slot = slots_[i];
    if (slot.tid != 0 && slot.tgid == tgid && slot.tid != tgid) {
      erase(slot.tid);
      i = 0;
    } else {
      ++i;
    }
  }
}

// --- /proc -----------------------------------------------------------------------------------------------------------

void ProcessTable::scan_process(pid_t pid) {
  const auto stat = read_stat(pid);
  if (!stat) return;  // gone meanwhile
  if (!stat->is_exiting && stat->threads == 1) {
    begin_process(pid, stat->parent, stat->start);
    return;
  }
  // Its first thread may have ended while others have not.
  bool is_there = false;
  bool is_first_running = false;
  (void)for_each_thread(pid, [&](pid_t thread) {
    const auto state = read_stat(pid, thread);
    if (!state || state->is_exiting) return;
    if (!is_there) begin_process(pid, stat->parent, stat->start);
    is_there = true;
    if (thread == pid) {
      is_first_running = true;
    } else {
      begin_thread({.pid = thread, .tgid = pid});
    }
  });
  if (!is_there || is_first_running) return;
  Slot* process = look_up(pid);
  process->is_running = false;
  --process->threads;
}

Result<void> ProcessTable::scan() {
  clear();
  return for_each_process([this](pid_t pid) { scan_process(pid); });
}

Result<void> ProcessTable::resync(ProcessEvents& events, Deadline deadline,
                                  const std::function<void(const ProcessEvent&)>& taken) {
  /// Reads everything in the stream; returns whether something was lost.
  const auto drain = [&](bool is_replay) -> Result<bool> {
    bool has_lost = false;
    for (unsigned i = 1;; ++i) {
      const auto event = events.take();
      if (!event) return std::unexpected(event.error());
      if (!*event) return has_lost;
      if (taken) taken(**event);
      has_lost = has_lost || (*event)->as<Lost>() != nullptr;
      if (is_replay) apply(**event);
      if (i % 4096 == 0 && deadline.remaining() == Deadline::Clock::duration::zero()) return has_lost;
    }
  };
  while (true) {
    if (const auto before = drain(false); !before) return std::unexpected(before.error());
    const auto drops_before = events.drops();
    if (!drops_before) return std::unexpected(drops_before.error());
    // A process is in /proc before its fork is reported, and is marked as exiting before its exit is reported. So every
    // change from here on is seen in /proc, or in the stream, or in both, and applying an event twice does no harm.
    if (auto scanned = scan(); !scanned) return scanned;
    const auto has_lost = drain(true);
    if (!has_lost) return std::unexpected(has_lost.error());
    const auto drops_after = events.drops();
    if (!drops_after) return std::unexpected(drops_after.error());
    if (!*has_lost && *drops_before == *drops_after) return {};
    if (deadline.remaining() == Deadline::Clock::duration::zero()) {
      return std::unexpected(
          failure(ETIMEDOUT, "resync")
              .detail("events are lost faster than /proc can be read: a larger receive buffer helps"));
    }
  }
}

// --- The set ---------------------------------------------------------------------------------------------------------

std::optional<ProcessTable::Entry> ProcessTable::find(pid_t pid) const noexcept {
  if (slots_.empty()) return std::nullopt;
  const Slot& slot = slots_[place_of(pid)];
  if (slot.tid == 0 || slot.tid != slot.tgid) return std::nullopt;
  return Entry{.id = {.pid = pid, .start = slot.start}, .parent = slot.parent, .threads = slot.threads};
}

void ProcessTable::for_each(const std::function<void(const Entry&)>& visit) const {
  for (const Slot& slot : slots_) {
    if (slot.tid == 0 || slot.tid != slot.tgid) continue;
    visit({.id = {.pid = slot.tid, .start = slot.start}, .parent = slot.parent, .threads = slot.threads});
  }
}

/// The slot of a thread, or the free slot where it would be.
std::size_t ProcessTable::place_of(pid_t tid) const noexcept {
  const std::size_t mask = slots_.size() - 1;
  auto place = static_cast<std::size_t>(static_cast<std::uint64_t>(tid) * 0x9E3779B97F4A7C15U >> 20U) & mask;
  while (slots_[place].tid != 0 && slots_[place].tid != tid) place = (place + 1) & mask;
  return place;
}

ProcessTable::Slot* ProcessTable::look_up(pid_t tid) noexcept {
  if (slots_.empty()) return nullptr;
  Slot& slot = slots_[place_of(tid)];
  return slot.tid == 0 ? nullptr : &slot;
}

ProcessTable::Slot& ProcessTable::insert(const Slot& slot) {
  if ((used_ + 1) * 2 > slots_.size()) grow();
  Slot& place = slots_[place_of(slot.tid)];
  place = slot;
  ++used_;
  return place;
}

void ProcessTable::erase(pid_t tid) noexcept {
  const std::size_t mask = slots_.size() - 1;
  std::size_t hole = place_of(tid);
  if (slots_[hole].tid == 0) return;
  slots_[hole] = {};
  --used_;
  // Later entries that it had displaced move up.
  for (std::size_t i = (hole + 1) & mask; slots_[i].tid != 0; i = (i + 1) & mask) {
    const Slot moved = slots_[i];
    slots_[i] = {};
    slots_[place_of(moved.tid)] = moved;
  }
}

void ProcessTable::grow() {
  std::vector<Slot> old(slots_.empty() ? 1024 : slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.tid != 0) slots_[place_of(slot.tid)] = slot;
  }
}

void ProcessTable::clear() noexcept {
  for (Slot& slot : slots_) slot = {};
  used_ = 0;
  processes_ = 0;
}

}  // namespace dmaflow::connector

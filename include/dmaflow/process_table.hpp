// The set of processes, kept up to date by process events, and corrected from /proc after a loss.
//
// Three things make a set that is based only on events wrong: lost events; first threads that end before their process;
// and a thread that calls execve() and takes the pid of the first thread, whose exit is reported while its own never
// is. So the table counts threads, and resync() reads /proc in a way that misses no event meanwhile.
#pragma once

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/process.hpp>
#include <dmaflow/process_events.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <sys/types.h>

namespace dmaflow::connector {

/// Processes that have not ended; zombies, which only wait to be reaped, have ended. A value; not synchronised. Keeping
/// it up to date costs no system call and, except when it occasionally doubles in size, no allocation. The stream must
/// include at least fork, exec and exit, and be the only one that is applied.
class ProcessTable {
 public:
  struct Entry {
    ProcessId id{};             ///< start is 0 if the process began after the last resync()
    pid_t parent = 0;           ///< that made it; where it began before, the one that it had then
    std::uint32_t threads = 0;  ///< that have not ended; at least 1
  };

  enum class Change : std::uint8_t {
    none,    ///< to the set of processes
    began,   ///< a process did: Fork::child
    execed,  ///< a process replaced its program
    ended,   ///< a process did, with its last thread: Exit::task
    lost,    ///< events were lost: the table is wrong until resync()
  };
  /// Applies an event of the stream. Returns what it means for processes.
  Change apply(const ProcessEvent& event);

  /// Corrects the table: reads the pending events, then /proc, then the events that arrived meanwhile, and begins again
  /// if events were lost. Every item that it takes from the stream, including Lost items, is also passed to @p taken,
  /// so that the program misses nothing; @p taken may be empty. Needed at the beginning and after each Lost item.
  /// Errors: ETIMEDOUT (the deadline came first; the table is only partly corrected), those of ProcessEvents::take()
  /// and of reading /proc.
  [[nodiscard]] Result<void> resync(ProcessEvents& events, Deadline deadline,
                                    const std::function<void(const ProcessEvent&)>& taken = {});

  /// Reads only /proc, for programs without events: the result may be outdated as soon as it returns. Errors: those of
  /// reading /proc.
  [[nodiscard]] Result<void> scan();

  [[nodiscard]] std::size_t size() const noexcept { return processes_; }
  [[nodiscard]] bool contains(pid_t pid) const noexcept { return find(pid).has_value(); }
  [[nodiscard]] std::optional<Entry> find(pid_t pid) const noexcept;
  /// Calls @p visit with each entry, in no order; it must not change the table.
  void for_each(const std::function<void(const Entry&)>& visit) const;

 private:
  /// A thread. That of a process (tid == tgid) stays until the process ends, and counts its threads.
  struct Slot {
    pid_t tid = 0;  // 0: free
    pid_t tgid = 0;
    pid_t parent = 0;
    std::uint32_t threads = 0;
    std::uint64_t start = 0;
    bool is_running = false;
    bool may_end_late = false;  // its first thread's end, from before an exec, may still be told
  };

  [[nodiscard]] std::size_t place_of(pid_t tid) const noexcept;
  Slot* look_up(pid_t tid) noexcept;
  Slot& insert(const Slot& slot);
  void erase(pid_t tid) noexcept;
  void grow();
  void clear() noexcept;
  void begin_process(pid_t pid, pid_t parent, std::uint64_t start);
  void begin_thread(Task task);
  bool end_thread(Task task) noexcept;
  void keep_first_thread_only(pid_t tgid);
  void scan_process(pid_t pid);

  std::vector<Slot> slots_;  // open addressing, a power of two
  std::size_t used_ = 0;
  std::size_t processes_ = 0;
};

}  // namespace dmaflow::connector

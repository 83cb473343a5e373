// What /proc says of processes, read without allocating per process.
#pragma once

#include <dmaflow/error.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include <sys/types.h>

namespace dmaflow::connector {

/// One line of /proc/PID/stat, or /proc/PID/task/TID/stat.
struct TaskStat {
  pid_t pid = 0;
  std::array<char, 16> comm{};  ///< ends in a zero
  char state = '?';
  pid_t parent = 0;
  bool is_exiting = false;  ///< past the point of no return, though /proc may show it a while
  std::uint32_t threads = 0;
  std::uint64_t start = 0;  ///< clock ticks since boot
};

/// Reads a line of any content. Nothing where it is none.
[[nodiscard]] std::optional<TaskStat> parse_stat(std::string_view line) noexcept;
/// Of a process (@p thread 0) or one of its threads. Errors: ESRCH.
[[nodiscard]] Result<TaskStat> read_stat(pid_t pid, pid_t thread = 0) noexcept;

/// Calls @p visit(pid) for each numeric name in /proc, or in /proc/PID/task. Errors: those of open and getdents.
[[nodiscard]] Result<void> for_each_pid(pid_t of, void (*visit)(pid_t, void*), void* user);

template <typename Visit>
Result<void> for_each_process(Visit visit) {
  return for_each_pid(0, [](pid_t pid, void* user) { (*static_cast<Visit*>(user))(pid); }, &visit);
}
template <typename Visit>
Result<void> for_each_thread(pid_t of, Visit visit) {
  return for_each_pid(of, [](pid_t pid, void* user) { (*static_cast<Visit*>(user))(pid); }, &visit);
}

}  // namespace dmaflow::connector

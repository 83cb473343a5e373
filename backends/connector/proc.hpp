// Information on processes from /proc, read without allocating per process.
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
  std::array<char, 16> comm{};  ///< zero-terminated
  char state = '?';
  pid_t parent = 0;
  bool is_exiting = false;  ///< its exit can no longer be stopped, though /proc may show it for a while
  std::uint32_t threads = 0;
  std::uint64_t start = 0;  ///< clock ticks since boot
};

/// Parses a line of any content; nullopt if it is not such a line.
[[nodiscard]] std::optional<TaskStat> parse_stat(std::string_view line) noexcept;
/// Reads the line of a process (@p thread 0) or of one of its threads. Errors: ESRCH.
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

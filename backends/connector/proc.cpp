#include "proc.hpp"

#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include <dirent.h>
#include <fcntl.h>

namespace dmaflow::connector {
namespace {

constexpr std::uint64_t pf_exiting = 0x4;  // include/linux/sched.h; set before the exit event is sent

/// The next word of a line; empty at its end.
std::string_view next_word(std::string_view& rest) noexcept {
  rest.remove_prefix(std::min(rest.find_first_not_of(" \n"), rest.size()));
  const std::string_view word = rest.substr(0, rest.find_first_of(" \n"));
  rest.remove_prefix(word.size());
  return word;
}

template <typename T>
bool read_number(std::string_view word, T& value) noexcept {
  const auto result = std::from_chars(word.data(), word.data() + word.size(), value);
  return result.ec == std::errc{} && result.ptr == word.data() + word.size();
}

struct DirectoryEntry {  // linux_dirent64, whose name follows
  std::uint64_t inode;
  std::int64_t next;
  std::uint16_t length;
  std::uint8_t type;
};
constexpr std::size_t name_offset = 19;

}  // namespace

std::optional<TaskStat> parse_stat(std::string_view line) noexcept {
  // "PID (name) S PPID ...": the name may contain anything, parentheses too.
  const std::size_t open = line.find('(');
  const std::size_t close = line.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return std::nullopt;
  TaskStat stat;
  std::string_view before = line.substr(0, open);
  if (!read_number(next_word(before), stat.pid)) return std::nullopt;
  const std::string_view name = line.substr(open + 1, close - open - 1);
  std::memcpy(stat.comm.data(), name.data(), std::min(name.size(), stat.comm.size() - 1));

  std::string_view rest = line.substr(close + 1);
  const std::string_view state = next_word(rest);
  if (state.size() != 1) return std::nullopt;
  stat.state = state.front();
  std::uint64_t flags = 0;
  for (int field = 4; field <= 22; ++field) {
    const std::string_view word = next_word(rest);
    bool is_good = !word.empty();
    if (field == 4) is_good = read_number(word, stat.parent);
    if (field == 9) is_good = read_number(word, flags);
    if (field == 20) is_good = read_number(word, stat.threads);
    if (field == 22) is_good = read_number(word, stat.start);
    if (!is_good) return std::nullopt;
  }
  stat.is_exiting = (flags & pf_exiting) != 0 || stat.state == 'Z' || stat.state == 'X';
  return stat;
}

Result<TaskStat> read_stat(pid_t pid, pid_t thread) noexcept {
  char path[64];
  if (thread == 0) {
    std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  } else {
    std::snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, thread);
  }
  const int number = sys::open(path, O_RDONLY);
  if (number < 0) return std::unexpected(Error::os(number == -ENOENT ? ESRCH : -number, "open", path));
  const Fd file = Fd::adopt(number);
  char line[1024];
  const ssize_t length = sys::read(file.get(), line, sizeof line);
  if (length < 0) return std::unexpected(Error::os(static_cast<int>(-length), "read", path));
  const auto stat = parse_stat({line, static_cast<std::size_t>(length)});
  if (!stat) return std::unexpected(Error::os(ESRCH, "read", path));
  return *stat;
}

Result<void> for_each_pid(pid_t of, void (*visit)(pid_t, void*), void* user) {
  char path[64] = "/proc";
  if (of != 0) std::snprintf(path, sizeof path, "/proc/%d/task", of);
  const int number = sys::open(path, O_RDONLY | O_DIRECTORY);
  if (number < 0) return std::unexpected(Error::os(-number, "open", path));
  const Fd directory = Fd::adopt(number);
  alignas(DirectoryEntry) char entries[16'384];
  while (true) {
    const ssize_t size = sys::getdents(directory.get(), entries, sizeof entries);
    if (size < 0) return std::unexpected(Error::os(static_cast<int>(-size), "getdents64", path));
    if (size == 0) return {};
    for (std::size_t at = 0; at + name_offset < static_cast<std::size_t>(size);) {
      std::uint16_t length = 0;
      std::memcpy(&length, entries + at + offsetof(DirectoryEntry, length), sizeof length);
      if (length == 0) break;
      pid_t pid = 0;
      if (read_number(std::string_view(entries + at + name_offset), pid)) visit(pid, user);
      at += length;
    }
  }
}

}  // namespace dmaflow::connector

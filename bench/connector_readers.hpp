// The ways to read a storm of process events, each in a process of its own, so that its CPU time is its own.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

namespace bench {

/// Events that one process makes as fast as it can.
struct Storm {
  std::string name;
  std::uint32_t mask;    ///< PROC_EVENT_* that are read
  std::uint64_t rounds;  ///< processes, or changes of name
  std::uint64_t events;  ///< of the mask, that they make
  int receive_buffer;    ///< bytes; 0: as the system has it
};
[[nodiscard]] Storm storm_of_processes(std::uint64_t processes, int receive_buffer);
[[nodiscard]] Storm storm_of_names(std::uint64_t changes, int receive_buffer);
/// Makes the events; ends with it.
void make(const Storm& storm);

/// What a reader and the storm tell each other, in shared memory.
struct Shared {
  std::atomic<bool> is_ready = false;
  std::atomic<bool> is_over = false;
  std::atomic<pid_t> storm = 0;
  std::uint64_t seen = 0;   ///< events of the storm
  std::uint64_t lost = 0;   ///< as the reader was told
  std::uint64_t drops = 0;  ///< by the kernel's count
  std::uint64_t calls = 0;  ///< system calls made to read
  double last = 0;          ///< when the last event was read, CLOCK_MONOTONIC, s
};

struct Reader {
  std::string name;
  void (*read)(const Storm& storm, Shared& shared);
};
/// First the library's, then the plain loop of recv(), then what is shown beside.
[[nodiscard]] std::vector<Reader> readers();

[[nodiscard]] double now();

/// One reader, one storm.
struct Run {
  std::uint64_t seen = 0, lost = 0, drops = 0, calls = 0;
  double seconds = 0;      ///< from the storm's beginning to the last event read
  double cpu_seconds = 0;  ///< of the reader, user and system
};
[[nodiscard]] Run run(const Reader& reader, const Storm& storm);
[[nodiscard]] bool has_forkstat();  ///< and strace
/// The program forkstat. Its lines are counted, and where @p is_traced its system calls, by strace.
[[nodiscard]] Run run_forkstat(const Storm& storm, bool is_traced);

}  // namespace bench

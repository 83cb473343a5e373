// Ways to read a storm of process events. Each runs in a separate process, so that its CPU time can be measured.
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
  std::uint32_t mask;    ///< the PROC_EVENT_* that are read
  std::uint64_t rounds;  ///< number of processes or name changes
  std::uint64_t events;  ///< number of events in the mask that the rounds cause
  int receive_buffer;    ///< bytes; 0: the system's default
};
[[nodiscard]] Storm storm_of_processes(std::uint64_t processes, int receive_buffer);
[[nodiscard]] Storm storm_of_names(std::uint64_t changes, int receive_buffer);
/// Makes the events; returns when all were made.
void make(const Storm& storm);

/// Data that a reader and the storm exchange in shared memory.
struct Shared {
  std::atomic<bool> is_ready = false;
  std::atomic<bool> is_over = false;
  std::atomic<pid_t> storm = 0;
  std::uint64_t seen = 0;   ///< events of the storm
  std::uint64_t lost = 0;   ///< as reported to the reader
  std::uint64_t drops = 0;  ///< as counted by the kernel
  std::uint64_t calls = 0;  ///< system calls for reading
  double last = 0;          ///< when the last event was read, CLOCK_MONOTONIC, s
};

struct Reader {
  std::string name;
  void (*read)(const Storm& storm, Shared& shared);
};
/// First the library's readers, then the plain loop of recv(), then others for comparison.
[[nodiscard]] std::vector<Reader> readers();

[[nodiscard]] double now();

/// The result of one reader in one storm.
struct Run {
  std::uint64_t seen = 0, lost = 0, drops = 0, calls = 0;
  double seconds = 0;      ///< from the storm's beginning to the last event read
  double cpu_seconds = 0;  ///< of the reader, user and system
};
[[nodiscard]] Run run(const Reader& reader, const Storm& storm);
[[nodiscard]] bool has_forkstat();  ///< true if both forkstat and strace are installed
/// Runs the program forkstat and counts the lines that it prints. If @p is_traced, strace counts its system calls.
[[nodiscard]] Run run_forkstat(const Storm& storm, bool is_traced);

}  // namespace bench

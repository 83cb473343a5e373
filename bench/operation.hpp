// The unit of every benchmark here: one operation, done in several ways in the same run.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace bench {

/// One way to do an operation. Only run() is counted and timed, not prepare().
struct Way {
  std::string name;
  std::function<void(int times)> run = {};
  /// Makes what that many runs will consume; may be empty.
  std::function<void(int times)> prepare = {};
};

/// The same work in several ways: first the library's, then raw system calls, then others for comparison.
struct Operation {
  std::string name;
  int batch;  ///< number of runs that are measured together
  std::vector<Way> ways;
  std::size_t bytes = 0;  ///< bytes that one run reads or writes; 0 if bandwidth is not measured
};

/// Says why this machine cannot do it and ends the program with status 2.
[[noreturn]] void give_up(const std::string& why);

/// Ends the program if a measured call failed, because its figure would be the cost of the error.
inline void require(bool worked, const char* what) {
  if (!worked) [[unlikely]] {
    give_up(what);
  }
}

}  // namespace bench

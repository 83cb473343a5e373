// What every benchmark here is made of: one operation, done in several ways in the same run.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace bench {

/// One way to do an operation. What prepare() sets up and what run() does are counted and timed apart.
struct Way {
  std::string name;
  std::function<void(int times)> run = {};
  /// Makes what that many runs will use up; may be empty.
  std::function<void(int times)> prepare = {};
};

/// The same work in several ways: first the library's, then the same in raw system calls, then what is shown beside.
struct Operation {
  std::string name;
  int batch;  ///< runs that are measured at once
  std::vector<Way> ways;
  std::size_t bytes = 0;  ///< that one run reads or writes, where that is the question
};

/// Says why this machine cannot do it and ends the program with status 2.
[[noreturn]] void give_up(const std::string& why);

/// Ends the program where a call that is measured failed: its figure would be that of the error.
inline void require(bool worked, const char* what) {
  if (!worked) [[unlikely]] {
    give_up(what);
  }
}

}  // namespace bench

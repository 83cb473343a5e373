// What the probe is doing, for whoever waits at a terminal, and whether it was told to stop.
#pragma once

#include <dmaflow/fd.hpp>

#include <string_view>

/// One line on stderr that is written over and, in the end, erased. Nothing is written where stderr is no terminal.
/// While it lives nobody else's words reach stderr: libgbm and Mesa print there what the table says better.
class Progress {
 public:
  /// @p stop_fd: readable once the program is to end (dmaflow::stop_on_signals()).
  explicit Progress(int stop_fd);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Says what comes next. False once the program was told to stop: then that is not to be begun.
  bool next(std::string_view what);
  void erase();

 private:
  void say(std::string_view text) const;

  int stop_fd_;
  dmaflow::Fd stderr_;  ///< the real one
  bool is_terminal_;
};

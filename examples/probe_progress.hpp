// Shows the user at a terminal what the probe is doing, and says whether it was asked to stop.
#pragma once

#include <dmaflow/fd.hpp>

#include <string_view>

/// One line on stderr that is overwritten and finally erased. Nothing is written if stderr is not a terminal. While it
/// exists, all other output to stderr is discarded: libgbm and Mesa print errors there that the table already explains.
class Progress {
 public:
  /// @p stop_fd: readable once the program is to end (dmaflow::stop_on_signals()).
  explicit Progress(int stop_fd);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows what comes next. False once the program was asked to stop; then the caller must not begin it.
  bool next(std::string_view what);
  void erase();

 private:
  void say(std::string_view text) const;

  int stop_fd_;
  dmaflow::Fd stderr_;  ///< the real one
  bool is_terminal_;
};

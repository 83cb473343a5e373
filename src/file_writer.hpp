// FileWriter: writes bytes through a buffer to a file, a pipe or standard output, completely or with one clear error.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dmaflow {

/// Not synchronised: one thread at a time. It allocates in open() only.
class FileWriter {
 public:
  /// The largest number of bytes that room() returns.
  static constexpr std::size_t most_room = std::size_t{256} * 1024;

  /// Opens @p path for writing and creates it if it does not exist; "-" is standard output. @p anew: truncates a
  /// regular file; otherwise bytes are appended to it. Writes to a pipe never block, so put() reacts to its Cancel even
  /// if the pipe's reader reads nothing. Errors: those of open(); ENXIO (nobody reads the pipe yet).
  Result<void> open(const std::string& path, bool anew);
  void close() noexcept { file_ = Fd(); }
  [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(file_); }
  /// True if open() opened a regular file.
  [[nodiscard]] bool is_regular() const noexcept { return is_regular_; }

  /// Returns space for @p bytes, at most most_room. The caller fills it, and it becomes part of what is written. Valid
  /// until the next call.
  [[nodiscard]] Result<std::span<std::byte>> room(std::size_t bytes, const Cancel* stop);
  /// Writes @p bytes. A large block is written without a copy.
  Result<void> put(std::span<const std::byte> bytes, const Cancel* stop);
  Result<void> put(const std::string& text, const Cancel* stop);
  /// Writes what was put so far. Errors of all functions that write: those of write() (ENOSPC, EPIPE, EFBIG, EIO),
  /// ECANCELED.
  Result<void> flush(const Cancel* stop);

  /// Marks what was flushed so far as complete: undo() returns to this point.
  void commit() noexcept { whole_ = written_; }
  /// After an error: discards what was put since commit(), and removes it from the end of a regular file.
  void undo() noexcept;

 private:
  Result<void> write(std::span<const std::byte> bytes, const Cancel* stop);

  Fd file_;
  std::string path_;
  bool is_regular_ = false;
  std::vector<std::byte> buffer_;
  std::size_t filled_ = 0;
  std::uint64_t written_ = 0;  // bytes in the file
  std::uint64_t whole_ = 0;    // of those, up to commit()
};

}  // namespace dmaflow

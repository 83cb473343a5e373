// FileWriter: bytes to a file, a pipe or standard output, through a buffer, whole or with one clear error.
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
  /// The most bytes that room() gives.
  static constexpr std::size_t most_room = std::size_t{256} * 1024;

  /// Opens @p path for writing, creates it where there is none; "-" is standard output. @p anew: what a regular file
  /// holds is deleted; otherwise bytes are added to its end. A pipe is written to without blocking, so that a reader
  /// that reads nothing cannot keep put() beyond its Cancel. Errors: those of open(); ENXIO (nobody reads the pipe
  /// yet).
  Result<void> open(const std::string& path, bool anew);
  void close() noexcept { file_ = Fd(); }
  [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(file_); }
  /// True where it is a regular file that open() opened.
  [[nodiscard]] bool is_regular() const noexcept { return is_regular_; }

  /// @p bytes to be filled, which are then part of what is written; most_room at most. Valid until the next call.
  [[nodiscard]] Result<std::span<std::byte>> room(std::size_t bytes, const Cancel* stop);
  /// Writes @p bytes, which are not copied where they are many.
  Result<void> put(std::span<const std::byte> bytes, const Cancel* stop);
  Result<void> put(const std::string& text, const Cancel* stop);
  /// Writes what was put so far. Errors of all that write: those of write() (ENOSPC, EPIPE, EFBIG, EIO), ECANCELED.
  Result<void> flush(const Cancel* stop);

  /// What was flushed so far is whole: undo() goes back to here.
  void commit() noexcept { whole_ = written_; }
  /// After an error: forgets what was put since commit(), and takes it off the end of a regular file.
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

// File descriptors with one owner. The name of the call shows what happens to ownership: adopt() takes, dup_of()
// copies.
#pragma once

#include <dmaflow/error.hpp>

#include <utility>

namespace dmaflow {

/// Owns one file descriptor, or none. Move-only; the destructor closes it. Not synchronised.
class Fd {
 public:
  Fd() = default;
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this == &other) return *this;
    if (fd_ >= 0) reset();
    fd_ = other.release();
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) reset();
  }

  /// Takes ownership of @p fd, which must be open and not owned by anything else, or -1 for none.
  [[nodiscard]] static Fd adopt(int fd) noexcept { return Fd(fd); }
  /// A new descriptor (CLOEXEC) for the same open file; the caller keeps @p fd.
  /// Errors: EBADF (not open), EMFILE.
  [[nodiscard]] static Result<Fd> dup_of(int fd) noexcept;

  /// The number, still owned by this object; -1 when it owns none.
  [[nodiscard]] int get() const noexcept { return fd_; }
  /// Gives the number to the caller, who closes it from now on.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  /// Closes now.
  void reset() noexcept;
  explicit operator bool() const noexcept { return fd_ >= 0; }

 private:
  explicit Fd(int fd) noexcept : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace dmaflow

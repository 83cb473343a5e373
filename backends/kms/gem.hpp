// GEM handles of one DRM file. The kernel gives the same handle, uncounted, each time a file imports the same buffer,
// so one GEM_CLOSE ends it for everybody: the count is kept here, and each handle is closed exactly once. Kernel:
// drivers/gpu/drm/drm_prime.c, drm_gem_prime_fd_to_handle().
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

namespace dmaflow::kms {

/// The handles in use now. Handles live only while a framebuffer is made, and the framebuffer then has references of
/// its own; those that the user of an adopted file holds are kept by name.
class GemRegistry {
 public:
  /// Holds the file's lock from import to close: nobody else can be given a handle that is about to be closed.
  class Session {
   public:
    explicit Session(GemRegistry& registry) : registry_(registry), lock_(registry.mutex_) {}
    /// A handle for a dma-buf, or -errno in @p error and 0. Release each one got.
    [[nodiscard]] std::uint32_t import(int dma_buf, int& error);
    /// Counts a handle the kernel made new (a dumb buffer's).
    void add(std::uint32_t handle) { registry_.add(handle); }
    /// Closes the handle with its last release.
    void release(std::uint32_t handle) noexcept;

   private:
    GemRegistry& registry_;
    std::unique_lock<std::mutex> lock_;
  };

  void set_fd(int fd) noexcept { fd_ = fd; }
  /// A handle somebody else closes.
  void keep(std::uint32_t handle);
  void forget(std::uint32_t handle) noexcept;

 private:
  struct Entry {
    std::uint32_t handle;
    std::uint32_t uses;
  };
  void add(std::uint32_t handle);
  [[nodiscard]] bool drop(std::uint32_t handle) noexcept;  // true with the last use

  std::mutex mutex_;
  std::vector<Entry> entries_;
  int fd_ = -1;
};

}  // namespace dmaflow::kms

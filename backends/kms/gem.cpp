#include "gem.hpp"

#include "drm_ioctl.hpp"

#include <algorithm>

#include <drm.h>

namespace dmaflow::kms {

void GemRegistry::add(std::uint32_t handle) {
  for (Entry& entry : entries_) {
    if (entry.handle == handle) {
      ++entry.uses;
      return;
    }
  }
  entries_.push_back({handle, 1});
}

bool GemRegistry::drop(std::uint32_t handle) noexcept {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.handle == handle; });
  if (found == entries_.end() || --found->uses > 0) return false;
  entries_.erase(found);
  return true;
}

std::uint32_t GemRegistry::Session::import(int dma_buf, int& error) {
  drm_prime_handle prime{.handle = 0, .flags = 0, .fd = dma_buf};
  error = drm_ioctl(registry_.fd_, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime);
  if (error < 0) return 0;
  registry_.add(prime.handle);
  return prime.handle;
}

void GemRegistry::Session::release(std::uint32_t handle) noexcept {
  if (!registry_.drop(handle)) return;
  drm_gem_close request{.handle = handle, .pad = 0};
  drm_ioctl(registry_.fd_, DRM_IOCTL_GEM_CLOSE, &request);
}

void GemRegistry::keep(std::uint32_t handle) {
  const std::lock_guard lock(mutex_);
  add(handle);
}

void GemRegistry::forget(std::uint32_t handle) noexcept {
  const std::lock_guard lock(mutex_);
  (void)drop(handle);
}

}  // namespace dmaflow::kms

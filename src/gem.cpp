#include <dmaflow/gem.hpp>

#include "sys/drm_ioctl.hpp"
#include "uapi/drm_gem.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow {

std::shared_ptr<GemRegistry> GemRegistry::create(int fd) {
  return std::shared_ptr<GemRegistry>(new GemRegistry(fd));  // make_shared cannot call the private constructor
}

GemRegistry::Entry* GemRegistry::find(std::uint32_t handle) noexcept {
  const auto found = std::ranges::find(entries_, handle, &Entry::handle);
  return found == entries_.end() ? nullptr : &*found;
}

GemRegistry::Entry& GemRegistry::entry_of(std::uint32_t handle) {
  if (Entry* known = find(handle)) return *known;
  return entries_.emplace_back(Entry{.handle = handle});
}

void GemRegistry::remove(const Entry& entry) noexcept { entries_.erase(entries_.begin() + (&entry - entries_.data())); }

std::uint32_t GemRegistry::Session::import(int dma_buf, int& error) {
  uapi::PrimeHandle prime{.handle = 0, .flags = 0, .fd = dma_buf};
  error = registry_.fd_ < 0 ? -ENODEV : sys::drm_ioctl(registry_.fd_, uapi::ioctl_prime_fd_to_handle, &prime);
  if (error < 0) return 0;
  registry_.add(prime.handle);
  return prime.handle;
}

void GemRegistry::Session::release(std::uint32_t handle) noexcept {
  Entry* entry = registry_.find(handle);
  if (entry == nullptr || entry->uses == 0) return;
  --entry->uses;
  if (entry->uses > 0 || entry->holds > 0) return;
  registry_.remove(*entry);
  if (registry_.fd_ < 0) return;  // the handle was closed with its file
  uapi::GemClose request{.handle = handle, .pad = 0};
  sys::drm_ioctl(registry_.fd_, uapi::ioctl_gem_close, &request);
}

bool GemRegistry::Session::hold(std::uint32_t handle, const void* owner) {
  Entry& entry = registry_.entry_of(handle);
  if (entry.holds > 0 && entry.owner != owner) return false;
  entry.owner = owner;
  ++entry.holds;
  return true;
}

void GemRegistry::Session::forget(std::uint32_t handle) noexcept { registry_.end_hold(handle); }

void GemRegistry::end_hold(std::uint32_t handle) noexcept {
  Entry* entry = find(handle);
  if (entry == nullptr || entry->holds == 0) return;
  --entry->holds;
  if (entry->holds == 0 && entry->uses == 0) remove(*entry);
}

void GemRegistry::detach() noexcept {
  const std::lock_guard lock(mutex_);
  fd_ = -1;
}

void GemRegistry::keep(std::uint32_t handle) {
  const std::lock_guard lock(mutex_);
  ++entry_of(handle).holds;
}

void GemRegistry::forget(std::uint32_t handle) noexcept {
  const std::lock_guard lock(mutex_);
  end_hold(handle);
}

}  // namespace dmaflow

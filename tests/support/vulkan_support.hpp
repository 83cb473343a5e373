// Shared by the Vulkan tests: the lab's device with its validation layer enabled, buffers filled with noise, frames.
#pragma once

#include "support.hpp"

#include <dmaflow/buffer.hpp>
#include <dmaflow/cpu_access.hpp>
#include <dmaflow/frame.hpp>
#include <dmaflow/heap.hpp>
#include <dmaflow/log.hpp>
#include <dmaflow/vulkan.hpp>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace dmaflow::test {

/// Collects the messages of Vulkan's validation layer. A test fails if there is any at its end.
class Validation {
 public:
  Validation() { set_log_hook(&Validation::hear, this); }
  ~Validation() {
    set_log_hook(nullptr);
    for (const std::string& message : said()) ADD_FAILURE() << message;
  }
  Validation(const Validation&) = delete;
  Validation& operator=(const Validation&) = delete;

  [[nodiscard]] std::vector<std::string> said() {
    const std::lock_guard lock(mutex_);
    return said_;
  }
  /// The messages so far were expected.
  void forget() {
    const std::lock_guard lock(mutex_);
    said_.clear();
  }

 private:
  /// lavapipe (Mesa 25.0) does not fill in VkDrmFormatModifierPropertiesList2EXT: it leaves the structure unchanged,
  /// while the older VkDrmFormatModifierPropertiesListEXT reports STORAGE and SAMPLED. The layer queries the newer one,
  /// and so assumes that no image with a modifier has any features.
  static bool is_lavapipes_own(std::string_view message) {
    const auto has = [&](std::string_view part) { return message.find(part) != std::string_view::npos; };
    if (has("VUID-VkImageViewCreateInfo-None-02273")) return has("DRM_FORMAT_MODIFIER");
    return has("VUID-vkCmdDispatch-OpTypeImage-07027") && has("supported features: VkFormatFeatureFlags2(0)");
  }
  static void hear(LogLevel, std::string_view message, void* self) {
    auto& validation = *static_cast<Validation*>(self);
    if (!message.starts_with("Vulkan: ")) return;
    if (is_lavapipes_own(message)) return;
    const std::lock_guard lock(validation.mutex_);
    validation.said_.emplace_back(message);
  }
  std::mutex mutex_;
  std::vector<std::string> said_;
};

/// Base of the tests that need a GPU, hardware or software. Outside the lab they are skipped if there is none.
class VulkanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = vulkan::Device::create({.validation = true});
    if (!made && !in_lab()) made = vulkan::Device::create();
    if (!made && !in_lab()) GTEST_SKIP() << made.error().message();
    ASSERT_TRUE(made) << made.error().message();
    gpu = std::move(*made);
  }
  void TearDown() override { gpu.reset(); }

  Validation validation;
  std::unique_ptr<vulkan::Device> gpu;
};

inline std::unique_ptr<heap::Allocator> system_heap() { return must(heap::Allocator::open("system"), "heap"); }

/// One buffer of a heap.
inline Buffer heap_buffer(Size size, PixelFormat format, const Constraints& constraints = {}) {
  Request request{.size = size, .format = format, .constraints = constraints};
  return must(system_heap()->allocate(request), "allocate").front();
}

/// Fills every byte of a buffer with noise; the same seed gives the same noise.
inline void fill_with_noise(const Buffer& buffer, unsigned seed) {
  std::mt19937 random(seed);
  auto access = must(CpuAccess::begin(buffer, Access::write, Deadline::after(std::chrono::seconds(5))), "fill");
  for (std::uint32_t i = 0; i < buffer.object_count(); ++i) {
    for (std::byte& byte : access.writable_object(i)) byte = static_cast<std::byte>(random());
  }
}

/// A frame of a HoldSet of its own.
inline Frame frame_of(const Buffer& buffer, const FrameInfo& info = {}, Fence ready = {}) {
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  return must(holds->lend(0, info, std::move(ready)));
}

}  // namespace dmaflow::test

// A frame's work on the GPU as an expert would write it by hand: command buffers that were recorded once, slots in
// flight that are used in turn, fences in and out as sync_files. Descriptors have no owners, calls do not go through a
// seam, and errors are only numbers. Functions return 0, a VkResult or -errno.
#pragma once

#include "fences.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <vulkan/vulkan_core.h>

namespace raw {

/// The functions that the loop calls, from vkGetDeviceProcAddr.
struct VulkanCalls {
  PFN_vkQueueSubmit submit;
  PFN_vkGetFenceStatus status;
  PFN_vkWaitForFences wait;
  PFN_vkResetFences reset;
  PFN_vkImportSemaphoreFdKHR import;
  PFN_vkGetSemaphoreFdKHR get_fd;
  PFN_vkGetQueryPoolResults results;
};

/// Recorded work, with its two timestamp queries if it has any.
struct GpuWork {
  VkCommandBuffer commands;
  VkQueryPool queries;
  std::uint32_t first_query;
};

struct GpuSlot {
  VkSemaphore acquired;
  VkSemaphore done;
  VkFence fence;
  bool busy;
  GpuWork work;
};

/// The fences of a processed frame: one after which its output may be read, and one after which its input may be
/// written. The caller closes both; -1: at once.
struct GpuFrame {
  int ready;
  int release;
};

class GpuLoop {
 public:
  GpuLoop(const VulkanCalls& calls, VkDevice device, VkQueue queue, const std::array<GpuSlot, 2>& slots) noexcept
      : calls_(calls), device_(device), queue_(queue), slots_(slots) {}

  /// Submits the work. @p filled: the fence of the frame, which the function consumes; -1: none. The fence is checked
  /// first: one that has signalled is not passed on, and with one that failed the frame is not processed.
  int convert(const GpuWork& given, int filled, GpuFrame& result) noexcept {
    GpuSlot& slot = slots_[next_];
    if (slot.busy) {
      VkResult ended = calls_.status(device_, slot.fence);
      if (ended == VK_NOT_READY) ended = calls_.wait(device_, 1, &slot.fence, VK_TRUE, 2'000'000'000);
      if (ended != VK_SUCCESS) return ended;
      slot.busy = false;
      if (slot.work.queries != VK_NULL_HANDLE) {
        std::array<std::uint64_t, 2> ticks{};
        if (calls_.results(device_, slot.work.queries, slot.work.first_query, 2, sizeof ticks, ticks.data(),
                           sizeof ticks[0], VK_QUERY_RESULT_64_BIT) == VK_SUCCESS) {
          gpu_ticks += ticks[1] - ticks[0];
        }
      }
      if (const VkResult ready = calls_.reset(device_, 1, &slot.fence); ready != VK_SUCCESS) return ready;
    }
    if (filled >= 0) {
      const int state = look(filled);
      if (state < 0) return state;
      if (state == 1) {
        ::close(filled);
        filled = -1;
      }
    }
    if (filled >= 0) {
      const VkImportSemaphoreFdInfoKHR info{
          VK_STRUCTURE_TYPE_IMPORT_SEMAPHORE_FD_INFO_KHR, nullptr, slot.acquired, VK_SEMAPHORE_IMPORT_TEMPORARY_BIT,
          VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT,  filled};
      if (const VkResult taken = calls_.import(device_, &info); taken != VK_SUCCESS) return taken;
    }
    const VkPipelineStageFlags stage = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    const VkSubmitInfo work{VK_STRUCTURE_TYPE_SUBMIT_INFO,
                            nullptr,
                            filled >= 0 ? 1U : 0U,
                            &slot.acquired,
                            &stage,
                            1,
                            &given.commands,
                            1,
                            &slot.done};
    if (const VkResult submitted = calls_.submit(queue_, 1, &work, slot.fence); submitted != VK_SUCCESS)
      return submitted;
    slot.busy = true;
    slot.work = given;
    const VkSemaphoreGetFdInfoKHR asked{VK_STRUCTURE_TYPE_SEMAPHORE_GET_FD_INFO_KHR, nullptr, slot.done,
                                        VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT};
    if (const VkResult got = calls_.get_fd(device_, &asked, &result.ready); got != VK_SUCCESS) return got;
    next_ = (next_ + 1) % slots_.size();
    result.release = -1;
    if (result.ready < 0) return 0;
    ::fcntl(result.ready, F_SETFD, FD_CLOEXEC);  // not every driver sets it
    result.release = ::fcntl(result.ready, F_DUPFD_CLOEXEC, 3);
    return result.release < 0 ? -errno : 0;
  }

  std::uint64_t gpu_ticks = 0;  ///< the time for which the GPU worked, if it is measured

 private:
  VulkanCalls calls_;
  VkDevice device_;
  VkQueue queue_;
  std::array<GpuSlot, 2> slots_;
  std::size_t next_ = 0;
};

}  // namespace raw

// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/layout.cc -- where every field stands, as compiled programs know it. A line is added, never changed: no hole
// and no padding, so that a field that is added begins where the struct ended.
#include <cstddef>

#include "switchyard/switchyard.h"

#ifdef __LP64__
#define AT(type, field, offset) static_assert(offsetof(type, field) == (offset))
#define SIZE(type, bytes) static_assert(sizeof(type) == (bytes))

AT(swy_tensor, data, 0);
AT(swy_tensor, shape, 8);
AT(swy_tensor, strides, 40);
AT(swy_tensor, rank, 72);
AT(swy_tensor, dtype, 76);
AT(swy_tensor, device, 80);
AT(swy_tensor, reserved, 84);
SIZE(swy_tensor, 96);

AT(swy_workspace, data, 0);
AT(swy_workspace, bytes, 8);
SIZE(swy_workspace, 16);

AT(swy_context_options, size, 0);
AT(swy_context_options, device, 8);
AT(swy_context_options, device_index, 12);
AT(swy_context_options, num_threads, 16);
AT(swy_context_options, num_sms, 20);
AT(swy_context_options, allocator, 24);
AT(swy_context_options, task_runner, 32);
SIZE(swy_context_options, 40);

AT(swy_allocator, allocate, 0);
AT(swy_allocator, free, 8);
AT(swy_allocator, release, 16);
AT(swy_allocator, user, 24);
SIZE(swy_allocator, 32);

AT(swy_task_runner, run, 0);
AT(swy_task_runner, release, 8);
AT(swy_task_runner, user, 16);
AT(swy_task_runner, num_threads, 24);
AT(swy_task_runner, reserved, 28);
SIZE(swy_task_runner, 32);

AT(swy_group_options, size, 0);
AT(swy_group_options, deadline_ms, 8);
AT(swy_group_options, address, 16);
SIZE(swy_group_options, 24);

AT(swy_config, size, 0);
AT(swy_config, hidden, 8);
AT(swy_config, intermediate, 16);
AT(swy_config, num_experts, 24);
AT(swy_config, top_k, 32);
AT(swy_config, activation, 40);
AT(swy_config, activation_alpha, 44);
AT(swy_config, activation_limit, 48);
AT(swy_config, scoring, 52);
AT(swy_config, renormalize, 56);
AT(swy_config, clamp_renormalizer, 60);
AT(swy_config, renormalize_epsilon, 64);
AT(swy_config, scale, 68);
AT(swy_config, num_groups, 72);
AT(swy_config, num_groups_kept, 80);
AT(swy_config, group_score, 88);
AT(swy_config, correction_bias, 92);
AT(swy_config, jitter_epsilon, 96);
AT(swy_config, logit_softcap, 100);
AT(swy_config, vocabulary, 104);
AT(swy_config, num_zero_experts, 112);
AT(swy_config, expert_scale, 120);
AT(swy_config, rms_of_hidden, 124);
AT(swy_config, shared_intermediate, 128);
AT(swy_config, shared_num_scored, 136);
AT(swy_config, shared_sigmoid_gated, 144);
AT(swy_config, shared_activation, 148);
AT(swy_config, shared_activation_alpha, 152);
AT(swy_config, shared_activation_limit, 156);
AT(swy_config, expert_bias, 160);
AT(swy_config, router_bias, 164);
AT(swy_config, router_f32, 168);
AT(swy_config, f32_sums, 172);
AT(swy_config, path_latent, 176);
AT(swy_config, path_input_norm, 184);
AT(swy_config, path_output_norm, 188);
AT(swy_config, path_norm_epsilon, 192);
AT(swy_config, router_weight_on_input, 196);
AT(swy_config, ids_are_given, 200);
SIZE(swy_config, 208);

AT(swy_weight_views, size, 0);
AT(swy_weight_views, order, 8);
AT(swy_weight_views, shared_order, 12);
AT(swy_weight_views, w1, 16);
AT(swy_weight_views, w2, 112);
AT(swy_weight_views, b1, 208);
AT(swy_weight_views, b2, 304);
AT(swy_weight_views, router, 400);
AT(swy_weight_views, router_bias, 496);
AT(swy_weight_views, correction_bias, 592);
AT(swy_weight_views, expert_scale, 688);
AT(swy_weight_views, token_experts, 784);
AT(swy_weight_views, shared_w1, 880);
AT(swy_weight_views, shared_w2, 976);
AT(swy_weight_views, shared_gate, 1072);
AT(swy_weight_views, path_input_norm, 1168);
AT(swy_weight_views, path_down, 1264);
AT(swy_weight_views, path_output_norm, 1360);
AT(swy_weight_views, path_up, 1456);
AT(swy_weight_views, transposed, 1552);
AT(swy_weight_views, reserved, 1556);
AT(swy_weight_views, w1_scales, 1560);
AT(swy_weight_views, w2_scales, 1656);
AT(swy_weight_views, w1_block_rows, 1752);
AT(swy_weight_views, w1_block_cols, 1760);
AT(swy_weight_views, w2_block_rows, 1768);
AT(swy_weight_views, w2_block_cols, 1776);
AT(swy_weight_views, num_slots, 1784);
SIZE(swy_weight_views, 1792);

AT(swy_options, size, 0);
AT(swy_options, max_tokens, 8);
AT(swy_options, masked_max_tokens, 16);
AT(swy_options, alignment, 24);
AT(swy_options, workspace_limit_bytes, 32);
AT(swy_options, strategy, 40);
AT(swy_options, tp_size, 48);
AT(swy_options, num_link_blocks, 52);
AT(swy_options, token_pieces, 56);
AT(swy_options, allow_repeated_experts, 60);
AT(swy_options, use_all_gather, 64);
AT(swy_options, fetch_rows, 68);
AT(swy_options, host_counts, 72);
AT(swy_options, peer_memory, 76);
AT(swy_options, host_ordered, 80);
AT(swy_options, poison_workspace, 84);
AT(swy_options, workspace_per_call, 88);
AT(swy_options, sums_at_source, 92);
AT(swy_options, workspace, 96);
AT(swy_options, shared_workspace, 112);
AT(swy_options, out_of_range_ids, 120);
AT(swy_options, strided_rows, 124);
AT(swy_options, fp8_rows, 128);
AT(swy_options, experts, 132);
AT(swy_options, placement, 136);
AT(swy_options, num_slots, 144);
AT(swy_options, count_loads, 152);
AT(swy_options, lost_rank_timeout_ms, 156);
AT(swy_options, gemm1, 160);
AT(swy_options, gemm2, 168);
SIZE(swy_options, 176);

AT(swy_forward_args, size, 0);
AT(swy_forward_args, output, 8);
AT(swy_forward_args, hidden, 104);
AT(swy_forward_args, ids, 200);
AT(swy_forward_args, weights, 296);
AT(swy_forward_args, token_ids, 392);
AT(swy_forward_args, max_tokens, 488);
AT(swy_forward_args, stream, 496);
AT(swy_forward_args, workspace, 504);
AT(swy_forward_args, expert_map, 520);
SIZE(swy_forward_args, 616);

AT(swy_report, size, 0);
AT(swy_report, max_rows, 8);
AT(swy_report, masked_max_tokens, 16);
AT(swy_report, layout, 24);
AT(swy_report, reserved, 28);
SIZE(swy_report, 32);

AT(swy_state_map, sequence_lengths, 0);
AT(swy_state_map, block_map, 96);
AT(swy_state_map, num_slots, 192);
AT(swy_state_map, row_stride, 200);
AT(swy_state_map, block_tokens, 208);
AT(swy_state_map, first_block, 216);
AT(swy_state_map, reserved, 224);
SIZE(swy_state_map, 240);

AT(swy_conv_decode, size, 0);
AT(swy_conv_decode, output, 8);
AT(swy_conv_decode, x, 104);
AT(swy_conv_decode, state, 200);
AT(swy_conv_decode, weight, 296);
AT(swy_conv_decode, bias, 392);
AT(swy_conv_decode, map, 488);
AT(swy_conv_decode, stream, 728);
AT(swy_conv_decode, activation, 736);
AT(swy_conv_decode, reserved, 740);
SIZE(swy_conv_decode, 744);

AT(swy_conv_prefill_states, size, 0);
AT(swy_conv_prefill_states, state, 8);
AT(swy_conv_prefill_states, x, 104);
AT(swy_conv_prefill_states, starts, 200);
AT(swy_conv_prefill_states, prefix_lengths, 296);
AT(swy_conv_prefill_states, map, 392);
AT(swy_conv_prefill_states, stream, 632);
SIZE(swy_conv_prefill_states, 640);

AT(swy_delta_rule_decode, size, 0);
AT(swy_delta_rule_decode, output, 8);
AT(swy_delta_rule_decode, q, 104);
AT(swy_delta_rule_decode, k, 200);
AT(swy_delta_rule_decode, v, 296);
AT(swy_delta_rule_decode, g, 392);
AT(swy_delta_rule_decode, beta, 488);
AT(swy_delta_rule_decode, state, 584);
AT(swy_delta_rule_decode, map, 680);
AT(swy_delta_rule_decode, stream, 920);
AT(swy_delta_rule_decode, l2_normalize, 928);
AT(swy_delta_rule_decode, has_scale, 932);
AT(swy_delta_rule_decode, scale, 936);
AT(swy_delta_rule_decode, reserved, 940);
SIZE(swy_delta_rule_decode, 944);

#endif

/* SPDX-FileCopyrightText: The Switchyard authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* examples/c/layer.c -- a layer of a checkpoint on rows of a file, in C99:
 *   cc -std=c99 layer.c $(pkg-config --cflags --libs switchyard-c) -o layer
 *   ./layer data/tiny-code-moe 1 rows.bf16 output.bf16      rows of bf16, one after the other
 */
#include <stdio.h>
#include <stdlib.h>
#include <switchyard/switchyard.h>

static void need(swy_status status) {
  if (status == SWY_OK) return;
  fprintf(stderr, "%s: %s\n", swy_status_name(status), swy_last_error());
  exit(1);
}

static uint16_t* read_rows(const char* path, int64_t columns, int64_t* rows) {
  FILE* file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
  const long bytes = ftell(file);
  uint16_t* values = malloc(bytes > 0 ? (size_t)bytes : 1);
  *rows = bytes / 2 / columns;
  if (bytes < 0 || fseek(file, 0, SEEK_SET) != 0 || values == NULL ||
      fread(values, 1, (size_t)bytes, file) != (size_t)bytes)
    exit(2);
  fclose(file);
  return values;
}

static void write_rows(const char* path, const uint16_t* values, size_t count) {
  FILE* file = fopen(path, "wb");
  if (file == NULL || fwrite(values, 2, count, file) != count || fclose(file) != 0) exit(2);
}

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const int64_t number = atoll(argv[2]);

  // [layer]
  swy_context* context;
  swy_checkpoint* checkpoint;
  swy_weights* weights;
  swy_layer* layer;
  swy_config config;
  swy_options options;
  SWY_INIT(config, config);  // the size that this header has, and every default
  SWY_INIT(options, options);

  need(swy_context_create(SWY_VERSION, NULL, &context));  // NULL: the CPU
  need(swy_checkpoint_create(argv[1], NULL, &checkpoint));
  need(swy_checkpoint_config(checkpoint, number, &config));
  need(swy_weights_create_from_checkpoint(context, checkpoint, number, 1, 0, &weights));

  int64_t tokens;
  uint16_t* hidden = read_rows(argv[3], config.hidden, &tokens);
  uint16_t* output = malloc((size_t)(tokens * config.hidden) * sizeof *output);
  options.max_tokens = tokens;
  need(swy_layer_create(context, &config, weights, NULL, &options, &layer));  // NULL: one rank

  swy_forward_args args;
  SWY_INIT(forward_args, args);
  args.output = swy_matrix(output, tokens, config.hidden, SWY_BF16, SWY_CPU);
  args.hidden = swy_matrix(hidden, tokens, config.hidden, SWY_BF16, SWY_CPU);
  need(swy_layer_forward(layer, &args, NULL));  // the layer's own gate chooses
  need(swy_layer_wait(layer, NULL));            // says what only a device or a peer could know
  // [layer]

  write_rows(argv[4], output, (size_t)(tokens * config.hidden));
  swy_context_destroy(context);  // in any order
  swy_checkpoint_destroy(checkpoint);
  swy_weights_destroy(weights);
  swy_layer_destroy(layer);
  free(hidden);
  free(output);
  return 0;
}

/* model.c - tarn model show, tarn model synth. */
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <inttypes.h>
#include <stdio.h>

static void print_model(const tarn_model_info *info)
{
    char size[PRINT_TEXT_MAX];
    printf("fingerprint     %s\n", info->fingerprint);
    printf("parameters      %" PRIu64 "\n", info->n_parameters);
    printf("weights         %s\n", print_bytes(info->weights_bytes, size));
    printf("vocabulary      %" PRIu32 " ids\n", info->vocab);
    printf("context         %" PRIu32 " tokens\n", info->context);
    printf("layers          %" PRIu32 " KDA, %" PRIu32 " MLA\n", info->n_kda_layers,
           info->n_mla_layers);
    printf("session state   %s\n", print_bytes(info->state_bytes, size));
    printf("  convolutions  %s\n", print_bytes(info->conv_bytes, size));
    printf("  latents       %s for each token\n", print_bytes(info->latent_bytes_per_token, size));
}

int verb_model_show(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_model_info info = {.size = sizeof info};
    int code = open_model(args, args->positionals[0], 0, &o);
    if (code == 0 && tarn_model_describe(o.model, open_numerics(args), &info, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        json_t *answer = json_pack(
            "{s:s, s:o, s:o, s:o, s:o, s:{s:o, s:o}, s:o, s:o, s:o}", "fingerprint",
            info.fingerprint, "parameters", result_number(info.n_parameters), "weights_bytes",
            result_number(info.weights_bytes), "vocab", result_number(info.vocab), "context",
            result_number(info.context), "layers", "kda", result_number(info.n_kda_layers), "mla",
            result_number(info.n_mla_layers), "state_bytes", result_number(info.state_bytes),
            "conv_bytes", result_number(info.conv_bytes), "latent_bytes_per_token",
            result_number(info.latent_bytes_per_token));
        code = result_print(answer, 0);
    } else if (code == 0) {
        print_model(&info);
        code = result_flush();
    }
    open_close(&o);
    return code;
}

static bool synth_progress(void *user, uint64_t done_bytes, uint64_t all_bytes)
{
    (void)user;
    print_progress("writing", "B", done_bytes, all_bytes);
    return true;
}

int verb_model_synth(const arguments *args)
{
    tarn_error err = {0};
    uint64_t n_parameters = 0, n_bytes = 0;
    tarn_synth_options options = {.size = sizeof options,
                                  .preset = args->options[OPTION_PRESET].text,
                                  .config = args->options[OPTION_CONFIG].text,
                                  .seed = args->options[OPTION_SEED].number,
                                  .dry_run = given(args, OPTION_DRY_RUN),
                                  .progress = synth_progress};
    if (!options.preset == !options.config)
        return options_wrong(args, "give one of --preset and --config");
    if (tarn_model_synth(args->positionals[0], &options, &n_parameters, &n_bytes, &err) != TARN_OK)
        return result_error(args, &err);
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o}", "parameters", result_number(n_parameters),
                                      "bytes", result_number(n_bytes)),
                            0);
    char size[PRINT_TEXT_MAX];
    printf("%s: %" PRIu64 " parameters, %s\n", args->positionals[0], n_parameters,
           print_bytes(n_bytes, size));
    return result_flush();
}
